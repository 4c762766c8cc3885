"""Word lists for the text tasks."""

WORDS = [
    "anchor", "apple", "arrow", "autumn", "balance", "banana", "basket", "beacon", "bottle", "branch", "bridge",
    "bronze", "butter", "button", "cabin", "camera", "candle", "canyon", "carbon", "carpet", "castle", "cedar",
    "cherry", "circle", "cloud", "cobalt", "coffee", "comet", "copper", "coral", "cotton", "cradle", "crystal",
    "curtain", "dancer", "desert", "diamond", "dragon", "eagle", "earth", "echo", "ember", "engine", "falcon",
    "feather", "fern", "fiddle", "forest", "fossil", "fountain", "galaxy", "garden", "garlic", "ginger", "glacier",
    "granite", "guitar", "hammer", "harbor", "harvest", "hazel", "helmet", "honey", "horizon", "island", "ivory",
    "jacket", "jasmine", "jungle", "kettle", "kitten", "ladder", "lantern", "lemon", "lettuce", "lily", "linen",
    "magnet", "mango", "maple", "marble", "meadow", "melon", "mirror", "monsoon", "mountain", "museum", "nectar",
    "needle", "nickel", "ocean", "olive", "onion", "orbit", "orchid", "oyster", "paddle", "panda", "paper", "parrot",
    "pebble", "pepper", "pigeon", "pillow", "planet", "plaza", "pocket", "poplar", "prairie", "pumpkin", "puzzle",
    "quartz", "rabbit", "radish", "raven", "ribbon", "river", "rocket", "saddle", "saffron", "salmon", "sandal",
    "satin", "silver", "spider", "spruce", "squirrel", "station", "summer", "sunset", "swallow", "temple", "thunder",
    "ticket", "timber", "tomato", "tractor", "tulip", "tunnel", "turtle", "valley", "velvet", "violet", "violin",
    "walnut", "water", "willow", "window", "winter", "wizard", "yogurt", "zebra", "zipper",
]  # fmt: skip

ADJECTIVES = [
    "quiet", "brave", "gentle", "heavy", "bright", "narrow", "ancient", "clever", "humble", "rapid", "silent", "golden",
    "purple", "dusty", "frozen", "hollow", "curious", "tired", "lively", "modern",
]  # fmt: skip

PALINDROMES = [
    "level", "radar", "rotor", "civic", "kayak", "madam", "refer", "noon", "deed", "stats", "tenet", "racecar",
    "rotator", "reviver", "solos",
]  # fmt: skip

ANAGRAMS = [
    ("listen", "silent"), ("stone", "notes"), ("earth", "heart"), ("night", "thing"), ("angel", "glean"),
    ("study", "dusty"), ("below", "elbow"), ("cider", "cried"), ("thorn", "north"), ("lemon", "melon"),
    ("teacher", "cheater"), ("save", "vase"), ("players", "parsley"), ("secure", "rescue"), ("brag", "grab"),
]  # fmt: skip
