"""The report in a browser, as people use it: in a wide window and on a phone, light and dark.

Two starts of headless Chromium do it all: a page of the tests holds the report in two frames, one per width, and a
script in each (probe.js) clicks, measures and tells what it found.
"""

import html
import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fastcam.evaluation.report import write_report
from fastcam.evaluation.store import Run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=20000",
]  # fmt: skip
# What `prefers-color-scheme` answers.
SCHEMES = {"light": "--blink-settings=preferredColorScheme=1", "dark": "--blink-settings=preferredColorScheme=0"}
WIDTHS = (360, 1200)

TITLE = """A "table" & <b>more</b></script><script>throw 1</script>"""
RECORDER = """<script>
window.recorded = [];
addEventListener("error", (event) => recorded.push(event.message));
addEventListener("unhandledrejection", (event) => recorded.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => recorded.push("refused " + event.blockedURI));
</script>"""
HARNESS = """<!DOCTYPE html><pre id="found"></pre>
{frames}
<script>
const found = {{}};
addEventListener("message", (event) => {{
  const frame = [...document.querySelectorAll("iframe")].find((each) => each.contentWindow === event.source);
  found[frame.name] = event.data;
  document.querySelector("#found").textContent = JSON.stringify(found);
}});
</script>"""

Found = dict[str, Any]


@pytest.fixture(scope="module")
def page(reference: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with all that a report can have."""
    folder = tmp_path_factory.mktemp("browser")
    run = Path(shutil.copytree(reference.path, folder / "run"))
    table = json.loads((run / "run.json").read_text())
    (model,) = (spec["name"] for spec in table["study"]["models"])
    table["study"] |= {
        "title": TITLE,
        "source": "<b>A paper</b>",
        "published": [
            {"model": model, "layer": "relu1", "method": "random_cam", "drop": "50.5", "insertion": "0.25"},
            {"model": model, "layer": "relu1", "method": "Elsewhere", "drop": "7.5"},
        ],
    }
    (run / "run.json").write_text(json.dumps(table))
    with (run / "log-0.jsonl").open("a") as log:
        log.write(json.dumps({"model": model, "kind": "out of memory", "batch_before": 4, "batch": 2}) + "\n")
    written = folder / "report.html"
    write_report([run], written, gallery=2)
    return written


@pytest.fixture(scope="module")
def everything(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Found]:
    """What the probes found, by scheme and width."""
    folder = tmp_path_factory.mktemp("probed")
    text = page.read_text(encoding="utf-8")
    assert text.count("<head>") == text.count("</body>") == 1
    probe = Path(__file__).with_name("probe.js").read_text(encoding="utf-8")
    text = text.replace("<head>", "<head>" + RECORDER).replace("</body>", f"<script>{probe}</script></body>")
    (folder / "probed.html").write_text(text, encoding="utf-8")
    frames = "".join(f'<iframe name="{w}" src="probed.html" style="width:{w}px;height:800px"></iframe>' for w in WIDTHS)
    harness = folder / "harness.html"
    harness.write_text(HARNESS.format(frames=frames.replace("<iframe ", '<iframe frameborder="0" ')), encoding="utf-8")
    return {
        (scheme, width): probed
        for scheme, flag in SCHEMES.items()
        for width, probed in _browse(harness, folder / scheme, flag).items()
    }


def _browse(harness: Path, profile: Path, flag: str) -> dict[int, Found]:
    # Virtual time may run out before a busy machine has started the frames: then nothing, or one of them, has answered.
    for attempt in range(3):
        folder = f"--user-data-dir={profile}-{attempt}"
        command = [str(BROWSER), *FLAGS, flag, folder, "--dump-dom", harness.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        assert told, done.stderr
        found = {int(width): probed for width, probed in json.loads(html.unescape(told[1]) or "{}").items()}
        if set(found) == set(WIDTHS):
            return found
    raise AssertionError(f"the frames did not answer: {done.stderr}")


@pytest.fixture(params=list(product(SCHEMES, WIDTHS)), ids=lambda p: f"{p[0]}-{p[1]}")
def found(request: pytest.FixtureRequest, everything: dict[tuple[str, int], Found]) -> Found:
    probed = everything[request.param]
    assert "failed" not in probed, probed["failed"]
    return probed


@pytest.fixture
def once(everything: dict[tuple[str, int], Found]) -> Found:
    return everything["light", 1200]


def drops(reference: Run) -> dict[str, float]:
    """The mean drop by method at relu1."""
    rows = [row for row in reference.rows.to_pylist() if row["layer"] == "relu1"]
    of = {m: [row["drop"] for row in rows if row["method"] == m] for m in dict.fromkeys(r["method"] for r in rows)}
    return {method: sum(values) / len(values) for method, values in of.items()}


def test_nothing_fails_and_nothing_is_fetched(found: Found) -> None:
    """The page forbids itself every address by a policy, and meets no violation of it."""
    assert found["errors"] == []
    assert found["errorsAfter"] == 0
    assert found["fetched"] == []


def test_every_picture_is_shown(found: Found) -> None:
    assert len(found["images"]) >= 2 * (1 + 5)
    assert min(found["images"]) > 0


def test_the_page_is_no_wider_than_the_window(found: Found) -> None:
    """Only tables and rows of pictures scroll sideways, in their own frames."""
    inner, scroll = found["wide"]
    assert inner in WIDTHS
    assert scroll <= inner
    assert found["beyond"] == []


def test_letters_in_drawings_can_be_read(found: Found) -> None:
    assert len(found["letters"]) > 20
    assert min(found["letters"]) >= 9


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    channels = [int(text) / 255 for text in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_stand_out(found: Found) -> None:
    """WCAG 2, level AA: 4.5 for text, 3 for what is drawn."""
    assert {selector for selector, _, _ in found["colours"]} >= {"body", ".interval", ".warning", "td.paper"}
    for least, pairs in ((4.5, found["colours"]), (3, found["strokes"])):
        assert pairs
        for selector, colour, ground in pairs:
            assert contrast(colour, ground) >= least, (selector, colour, ground)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_ground_follows_the_readers_scheme(width: int, everything: dict[tuple[str, int], Found]) -> None:
    light, dark = (luminance(everything[scheme, width]["colours"][0][2]) for scheme in ("light", "dark"))
    assert light > 0.8
    assert dark < 0.05


def test_titles_are_text(found: Found) -> None:
    assert found["title"] == TITLE
    assert found["forged"] == 0


def test_a_click_sorts_the_best_first_and_another_turns_the_order(once: Found, reference: Run) -> None:
    first, upwards, downwards = once["ours"]["orders"]
    means = drops(reference)
    # What has no figure at this layer stands last either way.
    assert sorted(first) == sorted([*means, "Elsewhere", "fake_cam"])
    assert upwards[:2] == sorted(means, key=lambda method: means[method])
    assert downwards[:2] == upwards[:2][::-1]
    assert set(upwards[2:]) == set(downwards[2:]) == {"Elsewhere", "fake_cam"}
    assert once["ours"]["sorts"] == ["ascending", "descending"]
    assert once["ours"]["marked"] == 1


def test_published_figures_sort_as_numbers(once: Found) -> None:
    _, upwards, downwards = once["paper"]["orders"]
    assert upwards[:2] == ["Elsewhere", "random_cam"]
    assert downwards[:2] == ["random_cam", "Elsewhere"]
    assert once["paper"]["marked"] == 1


def test_sorting_by_method_restores_the_studys_order(once: Found) -> None:
    assert once["byName"]["orders"][1] == once["ours"]["orders"][0]
    assert once["byName"]["orders"][2] == once["ours"]["orders"][0][::-1]


def test_the_scatter_plot_follows_its_controls(found: Found) -> None:
    scatter = found["scatter"]
    place = scatter["data"]["places"][0]
    assert scatter["places"] == [each["title"] for each in scatter["data"]["places"]]
    assert scatter["begin"] == sum(len(series["points"]) for series in place["series"]) == 2 * 22
    assert scatter["without"] == 22
    assert scatter["outside"] == 0
    assert scatter["titles"] == ["Average drop (%) ↓", "Insertion ↑"]
    assert scatter["changed"] == ["Insertion ↑", "Insertion ↑"]


def test_a_click_opens_a_card_and_enlarges_its_pictures(found: Found) -> None:
    card = found["card"]
    assert not card["before"]["open"]
    assert not card["before"]["values"]
    assert card["after"]["open"]
    assert card["after"]["values"]
    assert card["after"]["picture"] > 1.2 * card["before"]["picture"]
    assert "eigen_cam" in card["text"]
    assert re.search(r"(best|worst) average drop, [\d.]+ %", card["text"])
