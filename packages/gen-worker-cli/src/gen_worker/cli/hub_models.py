"""`gen-worker hub push`, `pull`, `ls`, `tag` and `gc`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.cli.failures import UsageError
from gen_worker.cli.hub import users_hub
from gen_worker.cli.hub_progress import TransferBar
from gen_worker.cli.hub_serve import open_hub
from gen_worker.cli.output import divert_stdout
from gen_worker.cli.results import ResultPrinter
from gen_worker.cli.signals import interruptible
from gen_worker.cli.sizes import size_text
from gen_worker.models.refs import TensorhubRef, parse_ref

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from gen_worker.models.hub import HubClient

__all__ = ["run"]

_WORDS = {
    "push": ("FOLDER owner/repo[:tag][#flavor]", 2, 2),
    "pull": ("REF [DIR]", 1, 2),
    "ls": ("[owner or owner/repo]", 0, 1),
    "tag": ("REF TAG", 2, 2),
    "gc": ("", 0, 0),
}

Outcome = tuple[Any, list[str]]
"""What is printed: as JSON, and as lines for a person."""


def run(args: argparse.Namespace) -> int:
    """Run one of the actions and print what it did."""
    usage, least, most = _WORDS[args.action]
    if not least <= len(args.tokens) <= most:
        raise UsageError(f"write it as: gen-worker hub {args.action} {usage}".rstrip())
    out, cancel = divert_stdout(), CancelToken()

    def act() -> int:
        document, lines = _ACTIONS[args.action](args, cancel)
        if args.json or not os.isatty(out.fileno()):
            ResultPrinter(out, envelope=False).print("result", document)
        else:
            out.write("".join(f"{line}\n" for line in lines).encode())
        return 0

    return interruptible(act, cancel)


def _push(args: argparse.Namespace, cancel: CancelToken) -> Outcome:
    from gen_worker.models.hub import publish_folder

    folder, ref = args.tokens[0], _hub_ref(args.tokens[1])
    if ref.digest:
        raise UsageError(f"{str(ref)!r} is pinned to what exists: push to a tag")
    bar = TransferBar("push")
    with _client(args) as client, bar.showing():
        done = publish_folder(
            client,
            folder,
            f"{ref.owner}/{ref.repo}",
            # `latest` moves with every publication, so naming it asks for nothing more.
            tags=() if ref.tag == "latest" else (ref.tag,),
            flavor=ref.flavor or "default",
            default_flavor=args.default_flavor,
            keep_other_files=args.keep,
            tell=bar.sent,
            cancel=cancel,
        )
    document = {"ref": str(ref), **msgspec.to_builtins(done)}
    sizes = f"{size_text(done.size_bytes)}, {size_text(done.sent_bytes)} sent"
    line = f"{ref}: {done.files} files, {sizes}"
    return document, [line, f"  {done.checkpoint_ids[0]}"]


def _pull(args: argparse.Namespace, cancel: CancelToken) -> Outcome:
    from gen_worker.models.hub import pull_folder

    ref = _hub_ref(args.tokens[0])
    folder = args.tokens[1] if len(args.tokens) > 1 else ref.repo
    bar = TransferBar("pull")
    with _client(args) as client, bar.showing():
        done = pull_folder(client, ref, folder, progress=bar.fetched, cancel=cancel)
    document = {"ref": str(ref), **msgspec.to_builtins(done)}
    fetched = f"{size_text(done.fetched_bytes)} fetched"
    return document, [f"{ref}: {done.files} files, {size_text(done.size_bytes)}, {fetched}"]


def _list(args: argparse.Namespace, _cancel: CancelToken) -> Outcome:
    word = args.tokens[0].lower() if args.tokens else ""
    with _client(args) as client:
        if "/" in word:
            ref = _hub_ref(word)
            repos = [client.repo(ref.owner, ref.repo)]
        else:
            repos = client.repos(word)
    return repos, [line for repo in repos for line in _repo_lines(repo)]


def _tag(args: argparse.Namespace, cancel: CancelToken) -> Outcome:
    ref, tag = _hub_ref(args.tokens[0]), args.tokens[1]
    with _client(args) as client:
        checkpoint_id = client.resolve(ref, cancel=cancel).snapshot.checkpoint_id
        client.move_tag(ref.owner, ref.repo, tag, checkpoint_id)
    name = f"{ref.owner}/{ref.repo}:{tag.lower()}"
    return {"ref": name, "checkpoint_id": checkpoint_id}, [f"{name}: {checkpoint_id}"]


def _collect(args: argparse.Namespace, _cancel: CancelToken) -> Outcome:
    if not os.path.exists(os.path.join(os.path.expanduser(args.dir), "key")):
        raise UsageError(f"there is no hub in {args.dir!r}: name its folder with --dir")
    with open_hub(args.dir) as hub:
        done = hub.collect_garbage(older_than_s=args.older_than * 3600, untagged=args.untagged)
    line = (
        f"{done.blobs} blobs, {size_text(done.blob_bytes)}; "
        f"broken uploads, {size_text(done.upload_bytes)}; {done.checkpoints} checkpoints"
    )
    return msgspec.to_builtins(done), [f"removed {line}"]


_ACTIONS = {"push": _push, "pull": _pull, "ls": _list, "tag": _tag, "gc": _collect}


def _client(args: argparse.Namespace) -> HubClient:
    from gen_worker.models.hub import HubClient

    url, token = users_hub()
    return HubClient(args.url or url, token)


def _hub_ref(text: str) -> TensorhubRef:
    ref = parse_ref(text)
    assert isinstance(ref, TensorhubRef), "the default provider's"
    return ref


def _repo_lines(repo: dict[str, Any]) -> Iterator[str]:
    yield f"{repo.get('owner')}/{repo.get('name')}"
    tags: Sequence[dict[str, Any]] = repo.get("tags") or ()
    for tag in tags:
        for name, flavor in (tag.get("flavors") or {}).items():
            mark = "*" if name == tag.get("default_flavor") else " "
            size, checkpoint = size_text(int(flavor["size_bytes"])), flavor["checkpoint_id"][:19]
            yield f"  :{tag.get('tag'):<12} {mark}#{name:<12} {size:>10}  {checkpoint}…"
