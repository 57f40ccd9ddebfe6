"""The site, as a reader meets it: built from what is committed, opened from the disk in a real browser."""

import json
import re
import shutil
import socket
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import requests

from reprise import claims, curves, drawing, paths, site

ELSEWHERE = """  - id: only_elsewhere
    says: Something that is measured at another scale.
    where: section 3
    paper: 1.5
    holds: {paper: gradient.log10_loss.mean < 0}
"""
ENTRIES = "return performance.getEntriesByType('paint').map(e => e.startTime)"
ROWS = "return [...document.querySelectorAll('#%s tbody tr')].filter(r => !r.hidden).map(r => r.%s)"


class Browser:
    """Chromium through its driver's own protocol (W3C WebDriver: JSON over HTTP), so that no further library is needed."""

    def __init__(self, profile: Path):
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        driver = shutil.which("chromedriver")
        if not chromium or not driver:
            pytest.skip("no Chromium with its driver (Debian: apt-get install chromium chromium-driver)")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.process = subprocess.Popen([driver, f"--port={address.rpartition(':')[2]}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                requests.get(f"{address}/status", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}"]
        wanted = {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": {"binary": chromium, "args": flags}}
        self.session = f"{address}/session"
        self.session += "/" + self._ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _ask(self, path, body):
        answer = requests.post(self.session + path, json=body, timeout=120).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, url, width=1280):
        """Load a page in a window of that width; returns what its console says."""
        self._ask("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}})
        self._ask("/url", {"url": url})
        return self._ask("/se/log", {"type": "browser"})

    def __call__(self, script, *args):
        """The value of a script."""
        return self._ask("/execute/sync", {"script": script, "args": args})

    def close(self):
        requests.delete(self.session, timeout=60)
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site of this checkout."""
    folder = tmp_path_factory.mktemp("built") / "site"
    site.build(folder)
    return folder


@pytest.fixture(scope="module")
def toy(reproduced, tmp_path_factory):
    """The site of a checkout with one paper at two scales, made by plain `dvc repro`."""
    checkout = reproduced.copy(tmp_path_factory.mktemp("toy") / "checkout")
    shutil.copytree(checkout.root / "reports/toy/small", checkout.root / "reports/toy/paper")
    declared = checkout.root / "pipelines/toy/claims.yaml"
    declared.write_text(declared.read_text().replace("    holds:\n", "    not_reproduced: {paper: 'Two <b>bold</b> & `code`.'}\n    holds:\n      paper: heavy_ball.log10_loss.mean > 0\n") + ELSEWHERE)
    (checkout.root / "pipelines/papers.yaml").write_text("later: {title: A paper & its plan, contributes: much}\n")
    (checkout.root / "pipelines/toy/times.yaml").write_text("small: {machine: an abacus, kind: CPU, seconds: {train: 90, report: 30}}\n")
    checkout.run("reprise.closure", "--write")
    checkout.run("dvc", "repro", "-q")
    return checkout


class Links(HTMLParser):
    """The links and ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("href", "src"):
                self.links.append(value)
            if key == "id":
                assert value not in self.ids, f"id {value} stands twice"
                self.ids.add(value)


def check_links(folder):
    for page in folder.rglob("*.html"):
        for link in Links(page.read_text()).links:
            target, _, anchor = link.partition("#")
            if re.match(r"(https?|data):", link):
                continue
            file = (page.parent / target).resolve() if target else page
            assert file.exists() and folder.resolve() in [file, *file.parents], f"{page}: {link}"
            assert not anchor or anchor in Links(file.read_text()).ids, f"{page}: {link}"


def test_what_is_committed_is_what_the_sources_make(built):
    made, kept = ({str(f.relative_to(top)): f.read_bytes() for f in top.rglob("*") if f.is_file()} for top in (built, site.SITE))
    assert made.keys() == kept.keys()
    assert [name for name in made if made[name] != kept[name]] == []


def test_every_link_resolves_inside_the_folder_and_every_page_is_small(built, toy):
    for folder in (built, toy.root / "reports/site"):
        check_links(folder)
        for page in folder.rglob("*.html"):
            parts = [page, *(page.parent / link for link in Links(page.read_text()).links if re.search(r"\.(js|css|svg|png)$", link))]
            assert sum(part.stat().st_size for part in parts if not str(part).startswith("data:")) < 1_000_000, page


def test_nothing_is_asked_of_a_network_and_nothing_depends_on_the_place(built):
    for file in built.rglob("*"):
        if file.suffix in (".html", ".css", ".js"):
            text = file.read_text()
            assert str(paths.ROOT) not in text
            assert not re.search(r"(src=|@import|url\()\W*https?:|<link[^>]*href=\W*https?:", text), file


def test_pages_load_without_a_word_in_the_console_at_every_width(browser, built, toy):
    for folder in (built, toy.root / "reports/site"):
        for page in folder.rglob("*.html"):
            for width in (1280, 390):
                assert browser.open(page.as_uri(), width) == []
                assert browser("return document.documentElement.scrollWidth") <= width, f"{page} is wider than the window"
                assert browser("return [...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0


@pytest.mark.slow
def test_the_first_paint_comes_within_a_second(browser, built):
    for page in built.rglob("*.html"):
        paints = []
        for _ in range(3):
            browser.open(page.as_uri())
            for _ in range(50):
                if found := browser(ENTRIES):
                    break
                time.sleep(0.1)
            paints += found
        assert min(paints) < 1000, page


def test_the_scoreboard_lists_every_paper_sorts_and_filters(browser, built):
    browser.open((built / "index.html").as_uri())
    slugs = [paper.slug for paper in site.papers()]
    assert set(paths.papers()) <= set(slugs)
    shown = ROWS % ("board", "cells[0].dataset.sort")
    assert browser(shown) == slugs
    browser("document.querySelector('#board th button').click()")
    assert browser(shown) == sorted(slugs)
    browser("document.querySelector('#board th button').click()")
    assert browser(shown) == sorted(slugs, reverse=True)
    browser("document.querySelector('.tools [data-value=run]').click()")
    assert sorted(browser(shown)) == sorted(p.slug for p in site.papers() if p.state == "run")
    browser("document.querySelector('.tools [data-value=\"\"]').click(); const s = document.querySelector('[type=search]'); s.value = 'TOWERS auxiliary'; s.dispatchEvent(new Event('input'))")
    assert browser(shown) == ["smalltowers"]


def test_numbers_sort_as_numbers_and_empty_cells_come_last(browser, built):
    browser.open((built / "smalltowers/index.html").as_uri())
    heading = "document.querySelectorAll('#claims-small th button')[3].click()"
    ours = ROWS % ("claims-small", "cells[3].dataset.sort")
    wanted = sorted((o.ours for o in claims.outcomes("smalltowers", "small") if o.ours is not None), reverse=True)
    browser(heading)
    assert [float(v) for v in browser(ours) if v] == wanted
    browser(heading)
    assert [float(v) for v in browser(ours) if v] == wanted[::-1]
    browser("document.querySelector('[data-chooses=claims-small] [data-value=no]').click()")
    missed = [o for o in claims.outcomes("smalltowers", "small") if o.verdict == "not reproduced"]
    assert len(browser(ours)) == len(missed)


def test_curves_answer_to_their_controls(browser, toy):
    browser.open((toy.root / "reports/site/toy/index.html").as_uri())
    count = "return document.querySelectorAll('.curves > svg path.%s').length"
    assert browser(count % "mean") == 2 and browser(count % "member") == 0
    browser("document.querySelectorAll('.curves input')[1].click()")  # every seed
    assert browser(count % "member") == 10
    browser("document.querySelector('.curves .legend button').click()")
    assert browser(count % "mean") == 1 and browser(count % "member") == 5
    before = browser("return document.querySelector('.curves path.mean').getAttribute('d')")
    browser("document.querySelectorAll('.curves input')[0].click()")  # log scale
    after = browser("return document.querySelector('.curves path.mean').getAttribute('d')")
    assert before != after and "NaN" not in after
    browser("const c = document.querySelector('.curves > svg'), b = c.getBoundingClientRect(); c.dispatchEvent(new PointerEvent('pointermove', {clientX: b.x + b.width / 2, clientY: b.y + 100}))")
    assert re.match(r"heavy_ball, step \d+: \S+, mean of 5; lowest", browser("return document.querySelector('.curves output').textContent"))


def test_several_scales_planned_papers_and_recorded_times_are_shown(toy):
    board = (toy.root / "reports/site/index.html").read_text()
    assert "Scale small" in board and "Scale paper" in board and "A paper &amp; its plan" in board and "planned" in board
    assert "2.0 CPU-min" in board and "an abacus" in board
    page = (toy.root / "reports/site/toy/index.html").read_text()
    assert 'id="claims-small"' in page and 'id="claims-paper"' in page
    assert "Two &lt;b&gt;bold&lt;/b&gt; &amp; <code>code</code>." in page
    assert page.count("✘ not reproduced") and page.count("✔ reproduced") and page.count("– not measured at this scale")


def test_a_rebuild_elsewhere_has_the_same_bytes_and_needs_no_data(toy, tmp_path):
    moved = toy.copy(tmp_path / "elsewhere")
    shutil.rmtree(moved.root / "data/toy")
    before = {f.relative_to(toy.root): f.read_bytes() for f in (toy.root / "reports/site").rglob("*") if f.is_file()}
    shutil.rmtree(moved.root / "reports/site")
    moved.run("reprise.site")
    assert {f.relative_to(moved.root): f.read_bytes() for f in (moved.root / "reports/site").rglob("*") if f.is_file()} == before


def test_the_two_engines_make_the_same_site(toy, tmp_path):
    other = toy.copy(tmp_path / "other")
    for name in ("site", "curves", "index.md"):
        target = other.root / "reports" / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    (other.root / "dvc.lock").unlink()
    other.run("reprise.engine", "reproduce", "--cores", "1")
    assert (other.root / "dvc.lock").read_bytes() == (toy.root / "dvc.lock").read_bytes()
    assert "up to date" in other.run("dvc", "status").stdout


def test_thinned_curves_keep_the_ends_the_mean_of_all_and_gaps(tmp_path):
    import pandas as pd

    folder = tmp_path / "models/a"
    folder.mkdir(parents=True)
    rows = [(step, "loss", member, float(step + member) if (step, member) != (999, 2) else float("inf")) for step in range(1000) for member in range(3)]
    pd.DataFrame(rows, columns=["step", "metric", "member", "value"]).to_parquet(folder / "history.parquet")
    for seed in (0, 1):
        pd.DataFrame([(0, "loss", 0, float(seed)), (1, "loss", 0, 2.0)], columns=["step", "metric", "member", "value"]).to_parquet(folder / f"history_probe_seed{seed}.parquet")
    pd.DataFrame({"seed": [7, 8, 9], "width": [1, 1, 1]}).to_parquet(folder / "members.parquet")
    found = curves.histories(tmp_path / "models")
    tree = curves.thinned(found, points=11, main=2, others=5)
    curve = tree[""]["metrics"]["loss"]["a"]
    assert curve["x"][0] == 0 and curve["x"][-1] == 999 and len(curve["x"]) == 11
    assert curve["mean"][0] == 1.0 and curve["mean"][-1] is None and curve["of"] == 3
    assert tree[""]["names"] == {"a": ["seed 7", "seed 9"]} and curve["y"][1][-1] is None
    assert tree["probe"] == {"names": {"a": ["seed 0", "seed 1"]}, "metrics": {"loss": {"a": {"x": [0, 1], "of": 2, "mean": [0.5, 2.0], "y": [[0.0, 2.0], [1.0, 2.0]]}}}}
    text = curves.script("small", found)
    assert json.loads(text.removeprefix('curves("small", ').removesuffix(");\n"))["probe"] == tree["probe"]


@pytest.mark.parametrize("paper", paths.papers())
def test_the_drawing_has_every_stage_and_no_arrow_backwards(paper):
    boxes = drawing.boxes(paper)
    picture = drawing.svg(paper)
    assert picture.count("<rect") == len(boxes) >= 3
    columns = {box.name: box.column for box in boxes}
    drawing.svg(paper)
    for box in drawing.boxes(paper):
        assert box.after or box.before, f"{box.name} is connected to nothing"
    assert len(columns) == len(boxes)


@pytest.mark.slow
def test_mlflow_shows_runs_that_compare(reproduced, tmp_path, browser):
    """`make ui` on results that lie on disk: through the REST interface, in the browser, and gone when it is stopped."""
    checkout = reproduced.copy(tmp_path / "checkout")
    models = checkout.root / "data/toy/small/models"
    shutil.copyfile(models / "gradient/history.parquet", models / "gradient/history_tune.parquet")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = checkout.start("reprise.tracking", "--port", str(port))
    address = f"http://127.0.0.1:{port}"

    def ask(path, body):
        return requests.post(f"{address}/api/2.0/mlflow/{path}", json=body, timeout=60).json()

    def answers():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        assert wait(answers), "no server came up"
        assert wait(lambda: requests.get(f"{address}/health", timeout=60).ok)
        experiments = {e["name"]: e["experiment_id"] for e in ask("experiments/search", {"max_results": 10})["experiments"]}
        runs = {run["info"]["run_name"]: run for run in ask("runs/search", {"experiment_ids": [experiments["toy"]]})["runs"]}
        assert set(runs) == {"gradient small", "gradient tune small", "heavy_ball small", "results small"}
        metrics, settings = ({name: {item["key"] for item in run["data"].get(kind, [])} for name, run in runs.items()} for kind in ("metrics", "params"))
        assert metrics["gradient small"] == metrics["heavy_ball small"] >= {"loss", "sd/loss", "best/loss", "test/log10_loss.mean"}
        assert settings["gradient small"] == settings["heavy_ball small"] >= {"steps", "momentum"}
        tags = {tag["key"]: tag["value"] for tag in runs["gradient tune small"]["data"]["tags"]}
        assert tags["mlflow.parentRunId"] == runs["gradient small"]["info"]["run_id"]
        assert not any(key.startswith("test/") for key in metrics["gradient tune small"])
        results = runs["results small"]["info"]["run_id"]
        figures = requests.get(f"{address}/api/2.0/mlflow/artifacts/list", params={"run_id": results, "path": "figures"}, timeout=60).json()["files"]
        assert [file["path"] for file in figures] == ["figures/loss.svg"]
        browser.open(f"{address}/#/experiments/{experiments['toy']}/runs?compareRunsMode=CHART")
        assert wait(lambda: "heavy_ball small" in browser("return document.body.innerText"))
        assert wait(lambda: browser("return [...document.querySelectorAll('.js-plotly-plot .scatterlayer .trace')].length") >= 2), "no overlaid curves"
        again = checkout.run("reprise.tracking", "--port", str(port), check=False)
        assert again.returncode == 1 and f"port {port} is taken" in again.stderr
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert wait(lambda: not answers()), "the server outlived `make ui`"


def wait(condition, seconds=120):
    """Whether `condition` comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.5)
    return False
