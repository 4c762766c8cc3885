"""What a person finds in the Dagster UI: what was chosen, whether it beats random, what to press, and what it does."""

import re

import yaml
from playwright.sync_api import Page, expect

from dselect_dagster.defs.histogram import HEIGHT, WIDTH
from tests.ui.conftest import Ui
from tests.ui.project import HOSTILE

GROUPS = {
    "sources": ["raw_dataset"],
    "model": ["warmup_model"],
    "scores": ["activations", "dependability_grades", "difficulty_scores", "embeddings"],
    "pool": ["corpus_index", "miwv_values", "neighbors"],
    "selection": ["candidates", "coreset", "coreset_spec"],
    "proof": ["held_out", "trial"],
}
# A graph's node shows the middle of a long name as an ellipsis.
SHOWN = {"dependability_grades": "dependabil…_grades"}
PARTITION = "/assets/coreset?view=partitions&partition="


def test_the_graph_has_every_asset_and_the_catalog_names_its_group(ui: Ui) -> None:
    page = ui.open("/asset-groups")
    nodes = page.locator("svg foreignObject")
    expect(nodes.filter(has_text=re.compile("^selection"))).to_be_visible()
    page.get_by_text("Hide navigation").click()
    page.keyboard.press("Alt+e")  # expands all groups
    for group, assets in GROUPS.items():
        expect(nodes.get_by_text(group, exact=True)).to_have_count(1)
        for asset in assets:
            expect(nodes.get_by_text(SHOWN.get(asset, asset), exact=True).first).to_be_attached()
    ui.screenshot("graph")
    page.set_viewport_size({"width": 1400, "height": 1300})
    ui.open("/assets")
    for group, assets in GROUPS.items():
        for asset in assets:
            expect(page.locator(f"a[href$='group%3A\"{group}\"/{asset}']")).to_have_text(re.compile(f"{group}$"))


def test_coresets_page_says_what_was_chosen_whether_it_beats_random_and_what_to_press(ui: Ui) -> None:
    page = ui.open("/assets/coreset?view=overview")
    for words in ("What was chosen, and does it beat random?", "After an edit of a recipe", "After anything else"):
        expect(page.get_by_text(words)).to_be_in_viewport()
    pages = page.get_by_role("link", name="The pages of all coresets")
    expect(pages).to_have_attribute("href", re.compile(re.escape(ui.reports)))
    ui.screenshot("overview")
    ui.open(f"{PARTITION}d3-10pct")
    expect(page.get_by_text(re.compile(r"^\d+ of \d+ rows by d3, budget 10%$"))).to_be_in_viewport()
    # Its trial says it on this page, in place of what was known as the coreset was made.
    expect(page.get_by_text(re.compile(r"^(better|worse|no difference): .* nats a token$"))).to_be_in_viewport()
    expect(page.get_by_text("its trial, which follows, will say")).to_have_count(0)
    ui.screenshot("coreset")
    ui.open(f"{PARTITION}longest")
    expect(page.get_by_text("not tried: `trial: true` in its recipe does")).to_be_in_viewport()


def test_the_report_opens_from_the_metadata_and_shows_its_plots(ui: Ui) -> None:
    page = ui.open(f"{PARTITION}d3-10pct")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=f"{ui.reports}/coresets/d3-10pct.html").click()
    report = opened.value
    expect(report.get_by_role("heading", name="Coreset d3-10pct")).to_be_visible()
    expect(report.get_by_role("heading", name="Against random")).to_be_in_viewport()
    pictures = report.get_by_role("img")
    assert pictures.count() >= 4  # of the trial, gains, scores, map
    for picture in pictures.all():
        box = picture.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 100
        assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
    ui.screenshot("report", report)
    # A page of another site that points its name at this machine reads nothing.
    assert page.request.get(ui.reports, headers={"Host": "elsewhere.example"}).status == 404
    report.goto(ui.reports)
    expect(report.get_by_role("link", name="mads-15pct")).to_be_visible()


def test_the_distribution_of_a_score_is_drawn(ui: Ui) -> None:
    page = ui.open("/assets/dependability_grades?view=partitions&partition=arithmetic_and_units")
    row = page.get_by_role("row").filter(has_text="distribution of grade")
    row.get_by_text("[Show Markdown]").click()
    picture = page.get_by_role("dialog").locator("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("drawn => [drawn.naturalWidth, drawn.naturalHeight]") == [WIDTH, HEIGHT]
    ui.screenshot("distribution")


def test_the_checks_show_their_results(ui: Ui) -> None:
    page = ui.open("/assets/coreset?view=checks")
    checks = ["beats_random", "every_source_kept", "few_chosen_are_alike", "not_collapsed"]
    for check in checks:
        name = page.get_by_text(check, exact=True).first
        row = name.locator("xpath=ancestor::*[contains(., 'Succeeded') or contains(., 'Failed')][1]")
        expect(row).to_have_text(re.compile(f"{check}.*(Succeeded|Failed)$"))
        name.click()
        expect(page.get_by_text("Evaluation result", exact=True)).to_be_visible()
    page.get_by_text("beats_random", exact=True).first.click()
    expect(page.get_by_text(re.compile("^(better|worse|no difference)$"))).to_be_visible()
    ui.screenshot("checks")


def test_after_an_edit_of_a_budget_a_materialisation_is_launched_and_finishes(ui: Ui) -> None:
    page = ui.open(f"{PARTITION}mads-15pct")
    expect(page.get_by_text(re.compile(r"rows by mads, budget 15%$"))).to_be_visible()
    config = ui.folder / "dselect.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["coresets"]["mads-15pct"]["budget"] = 33
    config.write_text(yaml.safe_dump(settings))

    # As the description says: Lineage, Upstream, Materialize all, that recipe.
    page.get_by_role("tab", name="Lineage").click()
    page.get_by_text("Upstream", exact=True).click()
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_text("mads-15pct", exact=True).filter(visible=True).click()
    page.keyboard.press("Escape")  # closes the list
    page.get_by_role("button", name=re.compile("^Launch")).click()
    _wait_for_the_run(page)
    ui.open(f"{PARTITION}mads-15pct")
    expect(page.get_by_text(re.compile(r"^33 of \d+ rows by mads, budget 33 rows$"))).to_be_in_viewport()


def _wait_for_the_run(page: Page) -> None:
    page.get_by_text("Runs", exact=True).first.click()
    # No run of a refresh makes so many at once here.
    row = page.get_by_text("3 assets", exact=True).locator("xpath=ancestor::*[contains(., 'Manually')][1]")
    expect(row).to_contain_text("Success")


def test_a_sample_that_tries_to_act_is_shown_as_text(ui: Ui) -> None:
    page = ui.open(f"{PARTITION}longest")
    page.get_by_text("[Show Markdown]").click()
    dialog = page.get_by_role("dialog")
    for words in ('<script>alert("acted")</script>', "![picture](http://127.0.0.1:9/p.png)", "<img src="):
        expect(dialog).to_contain_text(words)
    assert dialog.locator("img, script").count() == 0
    ui.screenshot("hostile")
    ui.open("/assets/raw_dataset?view=partitions&partition=guests")
    expect(page.get_by_text(re.compile("quarantine, first rows"))).to_be_visible()
    page.goto(f"{ui.reports}/coresets/longest.html")
    expect(page.get_by_text(HOSTILE[:60]).first).to_be_visible()
    assert page.locator("script, img:not([src^='data:'])").count() == 0
