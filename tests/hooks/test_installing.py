"""Installing around real hooks of real repositories, and taking it all away again."""

import shutil
import sys

import pytest

from support.hook_world import World, install, tree, uninstall

BLOCKING = "#!/bin/sh\nif git diff --cached | grep -q ^+SECRET; then echo 'a secret' >&2; exit 1; fi\n"


def queued_outcomes(world: World) -> list[tuple[str, str]]:
    return [(metrics["hook_type"], metrics.get("result", "override")) for metrics in world.metrics()]


def test_commit_block_override_and_push_are_all_in_the_queue(world: World) -> None:
    world.add_hook("pre-commit", BLOCKING)
    world.add_hook("pre-push", "#!/bin/sh\ncat >pushed\necho $1 >>pushed\n")
    install(world, "--org", "22222222-2222-4222-8222-222222222222")
    (world.repo / "a").write_text("SECRET")
    world.git("add", "a")
    blocked = world.commit()
    assert (blocked.returncode, blocked.stderr) == (1, "a secret\n")
    assert world.commit("--no-verify").returncode == 0
    world.await_events(1, "hook_override")
    (world.repo / "a").write_text("clean")
    world.git("add", "a")
    assert world.commit().returncode == 0
    world.git("init", "-q", "--bare", world.home / "remote.git")
    world.git("push", "-q", world.home / "remote.git", "main")
    pushed = (world.repo / "pushed").read_text()
    assert pushed.startswith("refs/heads/main ")
    assert pushed.endswith("remote.git\n")
    assert queued_outcomes(world) == [
        ("pre-commit", "blocked"),
        ("pre-commit", "override"),
        ("pre-commit", "allowed"),
        ("pre-push", "allowed"),
    ]
    assert {metrics["org_id"] for metrics in world.metrics()} == {"22222222-2222-4222-8222-222222222222"}
    override = next(metrics for metrics in world.metrics() if "severity" in metrics)
    assert (override["override_reason"], override["findings_count"], override["severity"]) == (
        "--no-verify",
        0,
        "unknown",
    )


def test_uninstall_leaves_the_repository_byte_for_byte_as_it_was(world: World) -> None:
    world.add_hook("pre-commit", BLOCKING, 0o750)
    world.add_hook("pre-push", "not executable", 0o640)
    (world.hooks / "post-commit").symlink_to("../../somewhere")
    before = tree(world.repo)
    install(world, "--hub", "http://127.0.0.1:1")
    assert tree(world.repo) != before
    uninstall(world)
    assert tree(world.repo) == before
    uninstall(world)
    assert tree(world.repo) == before


@pytest.mark.parametrize("missing", ["hooks", "info"])
def test_uninstall_leaves_nothing_where_there_was_nothing(world: World, missing: str) -> None:
    shutil.rmtree(world.repo / ".git" / missing)
    before = tree(world.repo)
    install(world)
    uninstall(world)
    assert tree(world.repo) == before


def test_installing_twice_is_installing_once(world: World) -> None:
    world.add_hook("pre-commit", BLOCKING)
    install(world, "--hub", "http://127.0.0.1:1")
    once = tree(world.repo)
    install(world, "--hub", "http://127.0.0.1:1")
    assert tree(world.repo) == once
    install(world)
    assert tree(world.repo) == once


def test_uninstall_keeps_what_was_not_sent_unless_told_otherwise(world: World) -> None:
    world.add_hook("pre-commit", BLOCKING)
    before = tree(world.repo)
    install(world)
    world.wrap("true")
    answer = world.opskpi("hook", "uninstall")
    assert "1 events were not sent and stay" in answer.stderr
    assert len(world.queued()) == 1
    assert world.git("status", "--short") == ""
    uninstall(world, "--purge")
    assert tree(world.repo) == before


def test_the_queue_is_never_committed(world: World) -> None:
    install(world)
    world.wrap("true")
    world.git("add", "-A")
    assert world.git("status", "--short", "--ignored") == ""


def test_a_hook_that_is_not_executable_is_not_run_and_not_lost(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nexit 1\n", 0o644)
    install(world)
    assert world.commit().returncode == 0
    assert not (world.folder / "telemetry-queue.json").exists()
    uninstall(world)
    assert (world.hooks / "pre-commit").stat().st_mode & 0o777 == 0o644


def test_where_there_is_no_hook_nothing_ran_and_nothing_is_recorded(world: World) -> None:
    answer = world.opskpi("hook", "install")
    assert "pre-commit: nothing to report: there is no such hook yet" in answer.stdout
    assert world.commit().returncode == 0
    assert world.commit("--no-verify").returncode == 0
    assert not (world.folder / "telemetry-queue.json").exists()


def test_a_hook_runs_alone_when_our_python_or_our_code_is_gone(world: World) -> None:
    world.add_hook("pre-commit", BLOCKING)
    install(world)
    for gone in (sys.executable, "entry.py"):
        for shim in (world.hooks / "pre-commit", world.hooks / "post-commit"):
            shim.write_text(shim.read_text().replace(gone, f"no/such/{gone}"))
        (world.repo / "a").write_text("SECRET")
        world.git("add", "a")
        assert world.commit().stderr == "a secret\n"
        world.git("rm", "-q", "--cached", "a")
        assert world.commit().returncode == 0
    assert not (world.folder / "telemetry-queue.json").exists()


@pytest.mark.parametrize("prior", ["blocked", "passed and given up"])
def test_a_commit_without_its_hook_is_seen_whatever_happened_before(world: World, prior: str) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\n[ ! -e stop ]\n")
    install(world)
    if prior == "blocked":
        (world.repo / "stop").touch()
        assert world.commit().returncode == 1
        (world.repo / "stop").unlink()
    else:
        given_up = world.run("git", "commit", "--allow-empty", env={"GIT_EDITOR": "false"})
        assert given_up.returncode == 1
    assert world.commit("--no-verify").returncode == 0
    world.await_events(1, "hook_override")


def test_merges_picks_and_rebases_are_no_overrides(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nexit 0\n")
    world.commit()
    install(world)
    world.git("checkout", "-q", "-b", "side")
    for name in ("one", "two"):
        (world.repo / name).write_text(name)
        world.git("add", name)
        world.git("commit", "-q", "-m", f"{name}\tcommit: x")
    world.git("checkout", "-q", "main")
    (world.repo / "three").write_text("3")
    world.git("add", "three")
    assert world.commit().returncode == 0
    world.git("cherry-pick", "side~1")
    world.git("revert", "--no-edit", "HEAD")
    world.git("checkout", "-q", "side")
    world.git("rebase", "-q", "main")
    world.git("checkout", "-q", "main")
    world.git("merge", "-q", "--no-ff", "-m", "joined", "side")
    world.git("commit", "-q", "--amend", "--no-edit")
    assert world.commit("--amend", "-n").returncode == 0
    world.await_events(1, "hook_override")
    assert [event["event"] for event in world.queued()].count("hook_execution") >= 4


def test_an_existing_post_commit_hook_goes_on(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nexit 0\n")
    world.add_hook("post-commit", "#!/bin/sh\necho after >>log\nexit 3\n")
    install(world)
    assert world.commit().returncode == 0
    assert world.commit("--no-verify").returncode == 0
    assert (world.repo / "log").read_text() == "after\nafter\n"
    world.await_events(1, "hook_override")


def test_worktrees_and_submodules_report_too(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nexit 0\n")
    world.commit()
    install(world)
    linked = world.home / "linked"
    world.git("worktree", "add", "-q", linked)
    assert world.commit(cwd=linked).returncode == 0
    assert world.commit("--no-verify", cwd=linked).returncode == 0
    world.await_events(1, "hook_override")
    assert world.opskpi("hook", "status", cwd=linked).stdout == world.opskpi("hook", "status").stdout
    world.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", world.repo, "inner")
    inner = world.repo / "inner"
    hook = world.repo / ".git" / "modules" / "inner" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    install(world, cwd=inner)
    assert world.commit(cwd=inner).returncode == 1
    assert world.commit("--no-verify", cwd=inner).returncode == 0
    recorded = World(world.home, inner, world.env)
    recorded.await_events(1, "hook_override")
    assert queued_outcomes(recorded)[0] == ("pre-commit", "blocked")
    assert world.git("status", "--short", cwd=inner) == ""


def test_hooks_in_a_folder_of_the_repository_are_found(world: World) -> None:
    folder = world.repo / "my hooks"
    folder.mkdir()
    (folder / "pre-commit").write_text(BLOCKING)
    (folder / "pre-commit").chmod(0o755)
    world.git("config", "core.hooksPath", "my hooks")
    install(world)
    assert world.commit().returncode == 0
    assert queued_outcomes(world) == [("pre-commit", "allowed")]
    assert world.git("status", "--short") == ""
    uninstall(world, "--purge")
    assert [path.name for path in folder.iterdir()] == ["pre-commit"]
    assert (folder / "pre-commit").read_text() == BLOCKING


def test_hooks_that_are_committed_are_left_alone(world: World) -> None:
    (world.repo / "hooks").mkdir()
    hook = world.repo / "hooks" / "pre-commit"
    hook.write_text(BLOCKING)
    hook.chmod(0o755)
    world.git("add", "hooks")
    world.git("config", "core.hooksPath", "hooks")
    answer = world.opskpi("hook", "install")
    assert answer.returncode == 78
    assert "opskpi hook wrap --hook-type pre-commit" in answer.stderr
    assert hook.read_text() == BLOCKING


def test_a_shared_folder_of_hooks_needs_a_word(world: World) -> None:
    shared = world.home / "shared"
    shared.mkdir()
    (shared / "pre-commit").write_text(BLOCKING)
    (shared / "pre-commit").chmod(0o755)
    world.git("config", "core.hooksPath", shared)
    answer = world.opskpi("hook", "install")
    assert answer.returncode == 78
    assert "--force-shared" in answer.stderr
    assert [path.name for path in shared.iterdir()] == ["pre-commit"]
    install(world, "--force-shared")
    assert world.commit().returncode == 0
    assert len(world.queued()) == 1
    uninstall(world, "--purge")
    assert (shared / "pre-commit").read_text() == BLOCKING


def test_a_bare_repository_can_push(world: World) -> None:
    world.commit()
    bare = world.home / "bare.git"
    world.git("clone", "-q", "--bare", world.repo, bare)
    hook = bare / "hooks" / "pre-push"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    install(world, cwd=bare)
    world.git("init", "-q", "--bare", world.home / "remote.git")
    assert world.run("git", "push", "-q", world.home / "remote.git", "main", cwd=bare).returncode == 1
    assert (bare / ".sentinel" / "telemetry-queue.json").exists()


@pytest.mark.parametrize("obstacle", ["no repository", "hooks is a file"])
def test_where_it_cannot_install_it_says_why(world: World, obstacle: str) -> None:
    place = world.repo
    if obstacle == "no repository":
        place = world.home
    else:
        shutil.rmtree(world.hooks)
        world.hooks.write_text("")
    answer = world.opskpi("hook", "install", cwd=place)
    assert answer.returncode == 78
    assert "Traceback" not in answer.stderr


def test_settings_are_private_and_hold_no_key(world: World) -> None:
    key = world.home / "key"
    key.write_text("very-secret")
    install(world, "--supabase", "https://x.supabase.co/", "--key-file", key)
    settings = world.folder / "settings.json"
    assert settings.stat().st_mode & 0o777 == 0o600
    assert "very-secret" not in settings.read_text()
    assert "https://x.supabase.co/rest/v1/rpc/ingest_events" in world.opskpi("hook", "status").stdout


FRAMEWORK = [sys.executable, "-m", "pre_commit"]
CONFIG = """\
repos:
  - repo: local
    hooks:
      - {id: count, name: count, language: system, entry: sh -c 'echo x >>ran', always_run: true, pass_filenames: false}
      - {id: stop, name: stop, language: system, entry: sh -c '! test -e stop', always_run: true, pass_filenames: false}
"""


@pytest.fixture
def framework(world: World) -> World:
    """Create a repository with two local hooks of the pre-commit framework."""
    world.env["PRE_COMMIT_HOME"] = str(world.home / "cache")
    (world.repo / ".pre-commit-config.yaml").write_text(CONFIG)
    (world.repo / ".gitignore").write_text("ran\nstop\nlegacy\n")
    world.git("add", ".")
    return world


def runs_since(world: World) -> int:
    ran = world.repo / "ran"
    count = len(ran.read_text()) // 2 if ran.exists() else 0
    ran.unlink(missing_ok=True)
    return count


def test_the_pre_commit_framework_goes_on_when_it_was_there_before(framework: World) -> None:
    assert framework.run(*FRAMEWORK, "install").returncode == 0
    before = tree(framework.hooks)
    install(framework)
    assert framework.commit().returncode == 0
    assert runs_since(framework) == 1
    (framework.repo / "stop").touch()
    assert framework.commit().returncode == 1
    assert queued_outcomes(framework) == [("pre-commit", "allowed"), ("pre-commit", "blocked")]
    uninstall(framework, "--purge")
    assert tree(framework.hooks) == before


@pytest.mark.parametrize("prior", ["nothing", "a hook", "the framework"])
def test_the_pre_commit_framework_goes_on_when_it_is_installed_afterwards(framework: World, prior: str) -> None:
    if prior == "a hook":
        framework.add_hook("pre-commit", "#!/bin/sh\necho x >>legacy\n")
    if prior == "the framework":
        framework.run(*FRAMEWORK, "install")
    install(framework)
    assert framework.run(*FRAMEWORK, "install").returncode == 0
    assert framework.commit().returncode == 0
    assert runs_since(framework) == 1
    if prior != "the framework":
        # The hook ran, by another way; only without it there is an override.
        assert framework.commit("--no-verify").returncode == 0
        framework.await_events(1, "hook_override")
    install(framework)
    assert framework.commit().returncode == 0
    assert runs_since(framework) == 1
    assert queued_outcomes(framework)[-1] == ("pre-commit", "allowed")
    if prior == "a hook":
        assert (framework.repo / "legacy").read_text() == "x\nx\n"
    uninstall(framework, "--purge")
    assert framework.commit().returncode == 0
    assert runs_since(framework) == 1


def test_a_hook_that_calls_its_own_place_does_not_go_round_and_round(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\necho x >>ran\nexec .git/hooks/pre-commit\n")
    install(world)
    assert world.commit().returncode == 0
    assert runs_since(world) == 1


def test_a_hook_that_commits_elsewhere_runs_the_hook_there(world: World) -> None:
    other = world.home / "other"
    world.git("clone", "-q", world.repo, other)
    inner = World(world.home, other, world.env)
    inner.add_hook("pre-commit", "#!/bin/sh\necho x >>ran\n")
    install(inner, cwd=other)
    world.add_hook(
        "pre-commit",
        f"#!/bin/sh\nunset $(git rev-parse --local-env-vars)\ncd {other} && git commit -q --allow-empty -m x\n",
    )
    install(world)
    assert world.commit().returncode == 0
    assert runs_since(inner) == 1
    assert (len(world.queued()), len(inner.queued())) == (1, 1)
