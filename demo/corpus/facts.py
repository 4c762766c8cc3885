"""Plain facts that do not change from year to year, as tables; every question is computed from a row of one."""

# country: capital, continent, an official language
COUNTRIES = {
    "France": ("Paris", "Europe", "French"), "Italy": ("Rome", "Europe", "Italian"),
    "Spain": ("Madrid", "Europe", "Spanish"), "Portugal": ("Lisbon", "Europe", "Portuguese"),
    "Austria": ("Vienna", "Europe", "German"), "Poland": ("Warsaw", "Europe", "Polish"),
    "Hungary": ("Budapest", "Europe", "Hungarian"), "Greece": ("Athens", "Europe", "Greek"),
    "Norway": ("Oslo", "Europe", "Norwegian"), "Sweden": ("Stockholm", "Europe", "Swedish"),
    "Finland": ("Helsinki", "Europe", "Finnish"), "Denmark": ("Copenhagen", "Europe", "Danish"),
    "Iceland": ("Reykjavik", "Europe", "Icelandic"), "Ireland": ("Dublin", "Europe", "Irish"),
    "Romania": ("Bucharest", "Europe", "Romanian"), "Bulgaria": ("Sofia", "Europe", "Bulgarian"),
    "Croatia": ("Zagreb", "Europe", "Croatian"), "Estonia": ("Tallinn", "Europe", "Estonian"),
    "Latvia": ("Riga", "Europe", "Latvian"), "Lithuania": ("Vilnius", "Europe", "Lithuanian"),
    "Slovenia": ("Ljubljana", "Europe", "Slovene"), "Ukraine": ("Kyiv", "Europe", "Ukrainian"),
    "Japan": ("Tokyo", "Asia", "Japanese"), "China": ("Beijing", "Asia", "Mandarin Chinese"),
    "Mongolia": ("Ulaanbaatar", "Asia", "Mongolian"), "Thailand": ("Bangkok", "Asia", "Thai"),
    "Vietnam": ("Hanoi", "Asia", "Vietnamese"), "Cambodia": ("Phnom Penh", "Asia", "Khmer"),
    "Laos": ("Vientiane", "Asia", "Lao"), "Nepal": ("Kathmandu", "Asia", "Nepali"),
    "Bhutan": ("Thimphu", "Asia", "Dzongkha"), "Bangladesh": ("Dhaka", "Asia", "Bengali"),
    "Iran": ("Tehran", "Asia", "Persian"), "Iraq": ("Baghdad", "Asia", "Arabic"), "Jordan": ("Amman", "Asia", "Arabic"),
    "Lebanon": ("Beirut", "Asia", "Arabic"), "Oman": ("Muscat", "Asia", "Arabic"), "Qatar": ("Doha", "Asia", "Arabic"),
    "Egypt": ("Cairo", "Africa", "Arabic"), "Morocco": ("Rabat", "Africa", "Arabic"),
    "Tunisia": ("Tunis", "Africa", "Arabic"), "Algeria": ("Algiers", "Africa", "Arabic"),
    "Kenya": ("Nairobi", "Africa", "Swahili"), "Ethiopia": ("Addis Ababa", "Africa", "Amharic"),
    "Ghana": ("Accra", "Africa", "English"), "Nigeria": ("Abuja", "Africa", "English"),
    "Senegal": ("Dakar", "Africa", "French"), "Uganda": ("Kampala", "Africa", "English"),
    "Zambia": ("Lusaka", "Africa", "English"), "Namibia": ("Windhoek", "Africa", "English"),
    "Angola": ("Luanda", "Africa", "Portuguese"), "Madagascar": ("Antananarivo", "Africa", "Malagasy"),
    "Canada": ("Ottawa", "North America", "English"), "Mexico": ("Mexico City", "North America", "Spanish"),
    "Cuba": ("Havana", "North America", "Spanish"), "Jamaica": ("Kingston", "North America", "English"),
    "Costa Rica": ("San José", "North America", "Spanish"), "Honduras": ("Tegucigalpa", "North America", "Spanish"),
    "Brazil": ("Brasília", "South America", "Portuguese"), "Argentina": ("Buenos Aires", "South America", "Spanish"),
    "Chile": ("Santiago", "South America", "Spanish"), "Peru": ("Lima", "South America", "Spanish"),
    "Colombia": ("Bogotá", "South America", "Spanish"), "Ecuador": ("Quito", "South America", "Spanish"),
    "Uruguay": ("Montevideo", "South America", "Spanish"), "Paraguay": ("Asunción", "South America", "Spanish"),
    "Venezuela": ("Caracas", "South America", "Spanish"), "Australia": ("Canberra", "Oceania", "English"),
    "New Zealand": ("Wellington", "Oceania", "English"), "Fiji": ("Suva", "Oceania", "English"),
    "Samoa": ("Apia", "Oceania", "Samoan"),
}  # fmt: skip

# element: symbol, atomic number
ELEMENTS = {
    "hydrogen": ("H", 1), "helium": ("He", 2), "lithium": ("Li", 3), "beryllium": ("Be", 4), "boron": ("B", 5),
    "carbon": ("C", 6), "nitrogen": ("N", 7), "oxygen": ("O", 8), "fluorine": ("F", 9), "neon": ("Ne", 10),
    "sodium": ("Na", 11), "magnesium": ("Mg", 12), "aluminium": ("Al", 13), "silicon": ("Si", 14),
    "phosphorus": ("P", 15), "sulfur": ("S", 16), "chlorine": ("Cl", 17), "argon": ("Ar", 18), "potassium": ("K", 19),
    "calcium": ("Ca", 20), "titanium": ("Ti", 22), "chromium": ("Cr", 24), "manganese": ("Mn", 25), "iron": ("Fe", 26),
    "cobalt": ("Co", 27), "nickel": ("Ni", 28), "copper": ("Cu", 29), "zinc": ("Zn", 30), "bromine": ("Br", 35),
    "silver": ("Ag", 47), "tin": ("Sn", 50), "iodine": ("I", 53), "tungsten": ("W", 74), "platinum": ("Pt", 78),
    "gold": ("Au", 79), "mercury": ("Hg", 80), "lead": ("Pb", 82), "radon": ("Rn", 86), "uranium": ("U", 92),
}  # fmt: skip

PLANETS = ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]

ANTONYMS = {
    "hot": "cold", "early": "late", "heavy": "light", "ancient": "modern", "expand": "contract", "victory": "defeat",
    "arrive": "depart", "shallow": "deep", "generous": "stingy", "accept": "refuse", "increase": "decrease",
    "temporary": "permanent", "brave": "cowardly", "visible": "invisible", "maximum": "minimum", "polite": "rude",
    "remember": "forget", "narrow": "wide", "smooth": "rough", "empty": "full", "borrow": "lend", "rise": "fall",
    "guilty": "innocent", "public": "private", "noisy": "quiet", "strong": "weak", "asleep": "awake",
    "optimist": "pessimist", "horizontal": "vertical", "scarce": "plentiful", "attack": "defend", "sharp": "blunt",
    "wet": "dry",
}  # fmt: skip

# verb: simple past, past participle
VERBS = {
    "go": ("went", "gone"), "write": ("wrote", "written"), "take": ("took", "taken"), "sing": ("sang", "sung"),
    "begin": ("began", "begun"), "swim": ("swam", "swum"), "drive": ("drove", "driven"), "eat": ("ate", "eaten"),
    "fly": ("flew", "flown"), "know": ("knew", "known"), "speak": ("spoke", "spoken"), "break": ("broke", "broken"),
    "choose": ("chose", "chosen"), "freeze": ("froze", "frozen"), "steal": ("stole", "stolen"),
    "forget": ("forgot", "forgotten"), "give": ("gave", "given"), "see": ("saw", "seen"), "fall": ("fell", "fallen"),
    "grow": ("grew", "grown"), "throw": ("threw", "thrown"), "ring": ("rang", "rung"), "drink": ("drank", "drunk"),
    "hide": ("hid", "hidden"), "ride": ("rode", "ridden"), "rise": ("rose", "risen"), "shake": ("shook", "shaken"),
    "wear": ("wore", "worn"), "tear": ("tore", "torn"), "draw": ("drew", "drawn"), "blow": ("blew", "blown"),
    "bite": ("bit", "bitten"),
}  # fmt: skip

PLURALS = {
    "child": "children", "mouse": "mice", "goose": "geese", "tooth": "teeth", "foot": "feet", "ox": "oxen",
    "leaf": "leaves", "wolf": "wolves", "knife": "knives", "half": "halves", "city": "cities", "berry": "berries",
    "box": "boxes", "church": "churches", "crisis": "crises", "analysis": "analyses", "criterion": "criteria",
    "phenomenon": "phenomena", "hero": "heroes", "potato": "potatoes", "woman": "women", "thief": "thieves",
    "life": "lives", "loaf": "loaves",
}  # fmt: skip

BABIES = {
    "cow": "calf", "horse": "foal", "sheep": "lamb", "goat": "kid", "dog": "puppy", "cat": "kitten", "bear": "cub",
    "kangaroo": "joey", "deer": "fawn", "pig": "piglet", "duck": "duckling", "goose": "gosling", "swan": "cygnet",
    "frog": "tadpole", "owl": "owlet", "hare": "leveret", "eagle": "eaglet", "elephant": "calf",
}  # fmt: skip

WORKS = {
    "Hamlet": "William Shakespeare", "Pride and Prejudice": "Jane Austen", "War and Peace": "Leo Tolstoy",
    "Moby-Dick": "Herman Melville", "Don Quixote": "Miguel de Cervantes", "Crime and Punishment": "Fyodor Dostoevsky",
    "Frankenstein": "Mary Shelley", "Dracula": "Bram Stoker", "Great Expectations": "Charles Dickens",
    "Jane Eyre": "Charlotte Brontë", "Madame Bovary": "Gustave Flaubert", "The Divine Comedy": "Dante Alighieri",
    "Les Misérables": "Victor Hugo", "Ulysses": "James Joyce", "Faust": "Johann Wolfgang von Goethe",
    "The Metamorphosis": "Franz Kafka", "Middlemarch": "George Eliot", "Walden": "Henry David Thoreau",
    "Nineteen Eighty-Four": "George Orwell", "Mrs Dalloway": "Virginia Woolf", "The Trial": "Franz Kafka",
    "Emma": "Jane Austen", "Macbeth": "William Shakespeare", "Wuthering Heights": "Emily Brontë",
    "Candide": "Voltaire",
}  # fmt: skip

# quantity: its SI unit
UNITS = {
    "force": "newton", "energy": "joule", "power": "watt", "electric current": "ampere", "voltage": "volt",
    "electrical resistance": "ohm", "frequency": "hertz", "pressure": "pascal", "temperature": "kelvin",
    "amount of substance": "mole", "luminous intensity": "candela", "electric charge": "coulomb",
    "magnetic flux density": "tesla", "capacitance": "farad",
}  # fmt: skip

# shape: number of sides, or of faces for a solid
SIDES = {
    "triangle": 3, "pentagon": 5, "hexagon": 6, "heptagon": 7, "octagon": 8, "nonagon": 9, "decagon": 10,
    "dodecagon": 12, "rhombus": 4,
}  # fmt: skip
FACES = {"cube": 6, "tetrahedron": 4, "octahedron": 8, "dodecahedron": 12, "icosahedron": 20}
