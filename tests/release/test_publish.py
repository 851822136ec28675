"""`publish` against a Hub on this machine: what goes out, what a stranger gets back, and every way it can fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from tests.hub_server import CUT, CUT_AFTER, TOKEN, HubServer
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.checkpoints.manifest import WEIGHTS_DIR, check_manifest, read_manifest, write_manifest
from timm_layeract.checkpoints.save import file_sha256
from timm_layeract.cli import app
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.release.cards import render_card
from timm_layeract.release.embed import embed_runs
from timm_layeract.release.publish import Publication
from timm_layeract.release.publish import publish as publish_from
from timm_layeract.release.shipped import embed_checkpoint, golden_file
from timm_layeract.training import run
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import load_recipe

NAME, TWIN, REPO = "resnet20_lasilu.cifar10_quick", "resnet20.cifar10_quick", "org/resnet20_lasilu.cifar10_quick"
FILES = [f".eval_results/{NAME}.yaml", "README.md", "config.json", "golden.safetensors", "model.safetensors"]
Publish = Callable[..., Publication]
# huggingface_hub 2.4 uploads by an argument that httpx2 2.16 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of the manifest and the weights used here."""
    unused = [path.name for path in WEIGHTS_DIR.glob("*.safetensors") if not path.name.startswith((NAME, TWIN))]
    return Path(shutil.copytree(WEIGHTS_DIR, tmp_path / "weights", ignore=shutil.ignore_patterns(*unused)))


@pytest.fixture
def publish(weights: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """`publish` from that copy, with a token."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return lambda name=NAME, repo=REPO, **options: publish_from(name, repo, directory=weights, **options)


def test_a_stranger_gets_the_same_logits(publish: Publish, hub: HubServer, weights: Path) -> None:
    said: list[str] = []
    done = publish(report=said.append)
    assert sorted(done.files) == FILES
    assert sorted(hub.files(REPO)) == sorted([".gitattributes", *FILES])
    model = timm.create_model(f"hf-hub:{REPO}", pretrained=True).eval()
    golden = load(hub.files(REPO)["golden.safetensors"])
    with torch.inference_mode():
        torch.testing.assert_close(model(golden["input"]), golden["output"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            model(golden["input"]), timm.create_model(NAME, pretrained=True).eval()(golden["input"])
        )
    assert hub.calls.count("commit") == 1
    assert len(hub.repos[REPO].commits) == 2  # the one that made it, and ours
    pinned = read_manifest(weights)[NAME]["hub"]
    assert (
        pinned == {"repo": REPO, "revision": done.revision} == {"repo": REPO, "revision": hub.repos[REPO].refs["main"]}
    )
    assert done.pinned
    assert len(said) == 3


def test_what_goes_out(publish: Publish, hub: HubServer, weights: Path, tmp_path: Path) -> None:
    publish()
    sent = hub.files(REPO)
    entry = read_manifest(weights)[NAME]
    (tmp_path / "sent.safetensors").write_bytes(sent["model.safetensors"])
    assert file_sha256(tmp_path / "sent.safetensors") == entry["sha256"]
    with safe_open(tmp_path / "sent.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["activations"]) == entry["activations"]
    config = json.loads(sent["config.json"])
    assert config["architecture"] == "resnet20_lasilu"
    assert config["model_args"]["activations"] == entry["activations"]
    assert config["label_names"] == entry["pretrained_cfg"]["label_names"]
    assert config["pretrained_cfg"]["tag"] == "cifar10_quick"
    assert config["pretrained_cfg"]["mean"] == [0.4914, 0.4822, 0.4465]
    assert not any(str(weights) in content.decode(errors="replace") for content in sent.values())
    # the card is the one that `make cards` writes once the manifest names the repository
    assert sent["README.md"].decode() == render_card(NAME, read_manifest(weights))
    (result,) = yaml.safe_load(sent[f".eval_results/{NAME}.yaml"])
    assert result["value"] == pytest.approx(entry["test"]["top1"], abs=0.005)


def test_a_dry_run_touches_nothing(
    publish: Publish, hub: HubServer, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (weights / "manifest.json").read_bytes()
    monkeypatch.delenv("HF_TOKEN")
    done = publish(NAME, dry_run=True)
    assert (done.name, done.revision, done.pinned) == (NAME, None, False)
    assert done.files["model.safetensors"] == read_manifest(weights)[NAME]["bytes"]
    assert hub.calls == []
    assert (weights / "manifest.json").read_bytes() == before


def test_publishing_again_sends_nothing_and_pins_the_same(publish: Publish, hub: HubServer, weights: Path) -> None:
    first = publish()
    hub.calls.clear()
    again = publish()
    assert again.revision == first.revision
    assert not {"create", "upload", "commit"} & set(hub.calls)


def test_a_new_card_is_a_new_commit(publish: Publish, hub: HubServer, weights: Path) -> None:
    first = publish()
    manifest = read_manifest(weights)
    manifest[NAME]["corrupted"] |= {"set": "CIFAR-10-C"}
    write_manifest(manifest, weights)
    hub.calls.clear()
    second = publish()
    assert second.revision != first.revision
    assert "CIFAR-10-C" in hub.files(REPO)["README.md"].decode()
    assert "upload" not in hub.calls


def test_private_repositories_and_pull_requests(publish: Publish, hub: HubServer, weights: Path) -> None:
    publish(private=True)
    assert hub.repos[REPO].private
    publish(TWIN, "org/public")
    assert not hub.repos["org/public"].private
    with pytest.raises(UserError, match="exists and is public; --private is for a new one"):
        publish(TWIN, "org/public", private=True)

    other, head = "org/proposed", hub.add("org/proposed", {})
    done = publish(repo=other, create_pr=True)
    assert not done.pinned
    assert done.url.endswith("/org/proposed/discussions/1")  # type: ignore[union-attr]
    assert hub.repos[other].refs["main"] == head
    assert sorted(hub.files(other, "refs/pr/1")) == sorted([".gitattributes", *FILES])
    assert read_manifest(weights)[NAME]["hub"]["repo"] == REPO
    with pytest.raises(UserError, match=r"There is no org/new to propose files to; leave --create-pr out"):
        publish(repo="org/new", create_pr=True)
    assert "org/new" not in hub.repos


def test_another_model_is_not_overwritten_without_force(publish: Publish, hub: HubServer) -> None:
    publish(TWIN, REPO)
    before = dict(hub.repos[REPO].refs)
    with pytest.raises(UserError, match=rf"{REPO} holds resnet20\.cifar10_quick, not {NAME}; .*--force"):
        publish()
    hub.add("org/else", {"pytorch_model.bin": b"pickle", "README.md": b"mine"})
    with pytest.raises(UserError, match=r"org/else holds something that is no timm model"):
        publish(repo="org/else")
    hub.add("org/broken", {"config.json": b"{"})
    with pytest.raises(UserError, match=r"org/broken holds a model whose config\.json cannot be read"):
        publish(repo="org/broken")
    assert hub.repos[REPO].refs == before
    publish(repo="org/else", force=True)
    assert sorted(hub.files("org/else")) == sorted([".gitattributes", *FILES])


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")


def other_weights(tensors: dict[str, torch.Tensor]) -> None:
    tensors["fc.weight"] += 0.01


def missing_key(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["fc.bias"]


@pytest.mark.parametrize(
    ("change", "honest", "said"),
    [
        (other_weights, False, "is not the file that was published: its sha256"),
        (not_finite, True, r"holds NaN or infinity, in layer1\.0\.conv1\.weight"),
        (other_weights, True, "gives other logits than were recorded"),
        (missing_key, True, r"does not fit resnet20_lasilu: .*fc\.bias"),
    ],
)
def test_wrong_weights_do_not_go_out(
    publish: Publish, hub: HubServer, weights: Path, change: Callable[..., None], honest: bool, said: str
) -> None:
    path = weights / f"{NAME}.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    if honest:  # the manifest agrees with the file
        manifest = read_manifest(weights)
        manifest[NAME]["sha256"] = file_sha256(path)
        write_manifest(manifest, weights)
    for dry_run in (True, False):
        with pytest.raises(UserError, match=said):
            publish(dry_run=dry_run)
    assert hub.repos == {}


def test_what_else_is_refused_before_anything_is_sent(
    publish: Publish, hub: HubServer, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for repo in ("name", "a/b/c", "org/na me", "org/..", "org/"):
        with pytest.raises(UserError, match="--repo"):
            publish(repo=repo)
    with pytest.raises(UserError, match=r"no trained weights 'resnet20_lasilux'; did you mean"):
        publish("resnet20_lasilux")
    manifest = read_manifest(weights)
    manifest[NAME]["activations"]["act1"] = "ReLU()"
    write_manifest(manifest, weights)
    with pytest.raises(UserError, match=r"1 site.*act1: ReLU\(\) expected"):
        publish()
    del manifest[NAME]["recipe"]
    write_manifest(manifest, weights)
    with pytest.raises(UserError, match="'recipe' is a required field"):
        publish()
    golden_file(TWIN, weights).unlink()
    shutil.copyfile(WEIGHTS_DIR / "manifest.json", weights / "manifest.json")
    with pytest.raises(UserError, match=r"no golden tensors resnet20\.cifar10_quick\.golden\.safetensors"):
        publish(TWIN)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"no token for the Hub; run `hf auth login`"):
        publish()
    assert hub.calls == []


STEPS = ["info", "create", "validate", "preupload", "batch", "upload", "verify", "commit"]


@pytest.mark.parametrize(
    ("step", "failure"),
    [*((step, CUT) for step in STEPS), ("create", 403), ("commit", 403), ("upload", 500), ("commit", 500)],
)
def test_a_failure_at_any_step_leaves_nothing_behind(
    publish: Publish, hub: HubServer, weights: Path, step: str, failure: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (weights / "manifest.json").read_bytes()
    hub.fail[step] = failure
    with pytest.raises(UserError, match=rf"{NAME} was not published to {REPO}: ") as refused:
        publish()
    if failure == 403:
        assert "--create-pr" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert TOKEN not in str(refused.value) + "".join(capfd.readouterr())
    assert REPO not in hub.repos
    assert (weights / "manifest.json").read_bytes() == before
    hub.fail.clear()
    assert publish().pinned  # and the second try works


def test_a_failure_in_a_repository_that_was_there_leaves_it_as_it_was(publish: Publish, hub: HubServer) -> None:
    head = hub.add(REPO, {})
    hub.fail["commit"] = CUT
    with pytest.raises(UserError, match="was not published"):
        publish()
    assert hub.repos[REPO].refs == {"main": head}


def test_a_token_that_is_wrong(publish: Publish, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 34)
    with pytest.raises(UserError, match="the token is not valid; make one with write access"):
        publish()
    assert hub.repos == {}


def test_a_changed_repository_is_not_written_over(publish: Publish, hub: HubServer) -> None:
    hub.add(REPO, {})
    hub.before_commit = lambda repo: repo.commit({"surprise.txt": b"somebody else"})
    with pytest.raises(UserError, match="the repository was changed meanwhile; look at it and run the command again"):
        publish()
    assert sorted(hub.files(REPO)) == [".gitattributes", "surprise.txt"]


def test_a_lost_answer_to_the_commit_is_mended_by_running_again(
    publish: Publish, hub: HubServer, weights: Path
) -> None:
    hub.fail["commit"] = CUT_AFTER
    with pytest.raises(UserError, match="was not published"):
        publish()
    assert sorted(hub.files(REPO)) == sorted([".gitattributes", *FILES])  # it was; the repository stays
    assert "hub" not in read_manifest(weights)[NAME]
    hub.fail.clear()
    assert publish().revision == hub.repos[REPO].refs["main"]
    assert hub.calls.count("commit") == 1


def test_what_arrives_changed_is_not_pinned(publish: Publish, hub: HubServer, weights: Path) -> None:
    def corrupt(repo: Any) -> None:
        for oid, content in hub.lfs.items():
            hub.lfs[oid] = content[:-8] + bytes(8)

    hub.before_commit = corrupt
    with pytest.raises(UserError, match=r"is not what was sent\. The manifest is unchanged"):
        publish()
    assert "hub" not in read_manifest(weights)[NAME]


def test_what_cannot_be_read_back_is_not_pinned(publish: Publish, hub: HubServer, weights: Path) -> None:
    hub.fail["download"] = 500
    with pytest.raises(UserError, match=r"was published, but could not be read back: .*run the command again"):
        publish()
    assert "hub" not in read_manifest(weights)[NAME]
    hub.fail.clear()
    assert publish().pinned


def test_a_float16_checkpoint_travels(publish: Publish, hub: HubServer, weights: Path) -> None:
    model = timm.create_model("resnet20_silu").eval()
    entry = {**read_manifest(weights)[NAME], "label_names": [str(index) for index in range(10)]}
    for key in ("file", "sha256", "bytes", "parameters", "dtype", "activations", "pretrained_cfg"):
        del entry[key]
    name = embed_checkpoint(model.half(), "half", {**entry, "model": "resnet20_silu"}, weights)
    assert read_manifest(weights)[name]["dtype"] == "float16"
    publish(name, "org/half")
    loaded = timm.create_model("hf-hub:org/half", pretrained=True)
    assert next(loaded.parameters()).dtype == torch.float32
    assert activation_fingerprint(loaded) == activation_fingerprint(model)


def test_what_training_embeds_can_be_published(
    publish: Publish, hub: HubServer, digits: ImageSplit, weights: Path, tmp_path: Path
) -> None:
    model = timm.create_model("resnet20_lahardsilu")
    run.train_on(
        model,
        load_recipe("finetune", epochs=1),
        digits.take(torch.arange(200)),
        digits.take(torch.arange(200, 300)),
        tmp_path / "run",
        data_name="CIFAR-10 (JPEG)",
        execution=Execution(report=lambda _: None),
    )
    name = embed_runs([tmp_path / "run"], "digits", weights)
    check_manifest(read_manifest(weights))
    publish(name, "org/digits")
    golden = load(hub.files("org/digits")["golden.safetensors"])
    loaded = timm.create_model("hf-hub:org/digits", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(golden["input"]), model.eval()(golden["input"]), rtol=1e-4, atol=1e-4)


def test_one_of_several_tags_must_be_named(publish: Publish) -> None:
    several = r"several tags; name one: resnet20_lasilu.cifar10, .*resnet20_lasilu\.cifar10_quick"
    with pytest.raises(UserError, match=several):
        publish("resnet20_lasilu", dry_run=True)


def test_the_command(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    app(["publish", NAME, "--repo", REPO, "--dry-run"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "1,095,144 bytes  model.safetensors" in out
    assert f"dry run: nothing was sent to {REPO}" in out
