"""`opskpi grafana`: files that Grafana imports and provisions, and what somebody changed in them stays."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from opskpi.grafana import files
from opskpi.grafana.parts import INPUT, PLUGIN
from support.fixtures import Cli

NAMES = {f"opskpi-{name}.json" for name in ("overview", "hooks", "supply-chain", "slo", "alerts")}
Json = dict[str, Any]


@pytest.fixture
def cli_without_database(cli: Cli) -> Cli:
    """Run the command without a database: it needs none."""
    return lambda *arguments, **options: cli(*arguments, env={"OPSKPI_DSN": "postgresql://nowhere:1/none"}, **options)


def dashboards(**options: Any) -> list[Json]:
    made = files(Path("out"), "opskpi", **{"show_org": False, "provisioning": False} | options)
    return [json.loads(text) for text in made.values()]


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def test_five_dashboards_are_written_and_a_second_run_changes_nothing(
    cli_without_database: Cli, tmp_path: Path
) -> None:
    first = cli_without_database("grafana", "--out", "made/of/two", "--json")
    assert first.returncode == 0, first.stderr
    listed = json.loads(first.stdout)
    assert {Path(entry["file"]).name for entry in listed} == NAMES
    assert {entry["change"] for entry in listed} == {"written"}
    before = contents(tmp_path / "made")
    assert set(before) == {f"of/two/{name}" for name in NAMES}
    second = cli_without_database("grafana", "--out", "made/of/two")
    assert second.stdout.count("unchanged") == len(NAMES)
    assert contents(tmp_path / "made") == before


def test_a_file_that_somebody_changed_stays_and_so_do_all_the_others(cli_without_database: Cli, tmp_path: Path) -> None:
    assert cli_without_database("grafana", "--out", "made", "--provisioning").returncode == 0
    # One is gone, so that a run would write something.
    (tmp_path / "made" / "opskpi-alerts.json").unlink()
    for name in ("opskpi-slo.json", "provisioning/datasources/opskpi.yaml"):
        changed = tmp_path / "made" / name
        ours = changed.read_text("utf-8")
        for theirs in (ours.replace("opskpi", "ours"), "{", "[]", "\0", ""):
            changed.write_text(theirs, "utf-8")
            before = contents(tmp_path / "made")
            refused = cli_without_database("grafana", "--out", "made", "--provisioning")
            assert (refused.returncode, name in refused.stderr, "--force" in refused.stderr) == (64, True, True)
            assert contents(tmp_path / "made") == before
        changed.write_text(ours, "utf-8")
    changed.write_text("mine", "utf-8")
    forced = cli_without_database("grafana", "--out", "made", "--provisioning", "--force")
    assert (forced.returncode, forced.stdout.count("overwritten"), forced.stdout.count("written ")) == (0, 1, 2)
    assert (
        cli_without_database("grafana", "--out", "made", "--provisioning").stdout.count("unchanged") == len(NAMES) + 2
    )


def test_a_file_of_another_version_that_nobody_changed_is_brought_up_to_date(
    cli_without_database: Cli, tmp_path: Path
) -> None:
    # With another uid it is as another version would have written it.
    assert cli_without_database("grafana", "--out", "made", "--provisioning", "--source", "other").returncode == 0
    answer = cli_without_database("grafana", "--out", "made", "--provisioning")
    assert (answer.returncode, answer.stdout.count("updated")) == (0, len(NAMES) + 1)
    assert "other" not in "".join(contents(tmp_path / "made").values()).replace("another", "").replace("each other", "")


@pytest.mark.parametrize("place", ["file", "file/below", "folder-with"])
def test_a_folder_that_cannot_be_one_is_a_bad_argument(cli_without_database: Cli, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder-with" / "opskpi-slo.json").mkdir(parents=True)
    answer = cli_without_database("grafana", "--out", place)
    assert (answer.returncode, "Traceback" in answer.stderr) == (64, False)


def test_a_uid_that_grafana_would_refuse_is_a_bad_argument(cli_without_database: Cli) -> None:
    assert cli_without_database("grafana", "--out", "made", "--source", "$HOME").returncode == 64
    assert cli_without_database("grafana").returncode == 64


def test_the_provisioning_names_the_environment_where_secrets_would_be(
    cli_without_database: Cli, tmp_path: Path
) -> None:
    assert cli_without_database("grafana", "--out", "a$b", "--provisioning").returncode == 0
    made = tmp_path / "a$b" / "provisioning"
    [source] = yaml.safe_load((made / "datasources" / "opskpi.yaml").read_text("utf-8"))["datasources"]
    assert (source["uid"], source["type"]) == ("opskpi", PLUGIN)
    assert source["secureJsonData"] == {"password": "$OPSKPI_GRAFANA_PASSWORD"}
    for value in (source["url"], source["user"], source["jsonData"]["database"], source["jsonData"]["sslmode"]):
        assert re.fullmatch(r"\$OPSKPI_GRAFANA_[A-Z]+", value)
    [provider] = yaml.safe_load((made / "dashboards" / "opskpi.yaml").read_text("utf-8"))["providers"]
    # Grafana reads a dollar sign as the start of a variable, and two as one.
    assert Path(provider["options"]["path"].replace("$$", "$")) == tmp_path / "a$b"
    assert "$$" in provider["options"]["path"]


def test_every_source_is_the_one_that_an_import_asks_for_and_provisioning_knows() -> None:
    for dashboard in dashboards():
        [asked] = dashboard["__inputs"]
        assert (asked["name"], asked["type"], asked["pluginId"]) == (INPUT, "datasource", PLUGIN)
        first, *others = dashboard["templating"]["list"]
        assert (first["name"], first["type"], first["query"], first["current"]["value"]) == (
            INPUT,
            "datasource",
            PLUGIN,
            "opskpi",
        )
        queries = [variable for variable in others if variable["type"] == "query"]
        targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
        for reading in (*dashboard["panels"], *targets, *queries, *dashboard["annotations"]["list"]):
            assert reading["datasource"] == {"type": PLUGIN, "uid": f"${{{INPUT}}}"}
        # An import puts a uid in its place, and leaves nothing to be found.
        assert f"${{{INPUT}}}" not in json.dumps(dashboard).replace(f"${{{INPUT}}}", "uid")


def test_a_dashboard_is_laid_out_without_overlaps_and_says_what_each_panel_shows() -> None:
    for dashboard in dashboards():
        assert dashboard["id"] is None
        assert 8 <= len(dashboard["uid"]) <= 40
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken
            assert max(x for x, _ in cells) < 24
            taken |= cells
            for word in ("Unit: ", "Window: ", "Samples: "):
                assert word in panel["description"], panel["title"]


def test_every_query_reads_views_for_analysts_only_and_adds_nothing_up_by_itself() -> None:
    for dashboard in dashboards():
        texts = [target["rawSql"] for panel in dashboard["panels"] for target in panel["targets"]]
        texts += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
        texts += [annotation["target"]["rawSql"] for annotation in dashboard["annotations"]["list"]]
        for text in texts:
            # Apart from the `from` of extract and of distinct.
            sources = re.findall(r"\b(?:from|join)\s+(\w[\w.]*)", text.replace("extract(epoch from ", "extract("))
            assert sources, text
            assert all(source.startswith("v_ops_") for source in sources), text
            assert not re.search(r"\b(group by|join|over|with)\b", text), text


def test_the_organisation_is_hidden_unless_it_is_asked_for() -> None:
    for shown, hidden in ((False, 2), (True, 0)):
        for dashboard in dashboards(show_org=shown):
            [org] = [variable for variable in dashboard["templating"]["list"] if variable["name"] == "org"]
            assert org["hide"] == hidden
