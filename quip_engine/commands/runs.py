"""``runs``: the history, newest first; and what can be done with a run: describe, queue, export, delete.

runs [--queue]                     list them
runs note RUN TEXT                 rename, note, tag: what a person wants to remember
runs duplicate RUN --out DIR       the same job again, behind the others
runs pause|stop|proceed            the one at work, and the queue
runs export RUN DIR                a folder for others, with a model card
runs delete RUN [--checkpoint]     sizes are told first
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from quip_engine.runs import Run, Store, active, enqueue, pause, proceed, queue, stop

Verb = Callable[[argparse.Namespace], Any]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("runs", help="list runs and what became of them; rename, queue, export, delete")
    parser.add_argument("--queue", action="store_true", help="only those that wait, the next one first")
    parser.set_defaults(run=list_runs)
    verbs = parser.add_subparsers(metavar="VERB", parser_class=type(parser))
    _verb(verbs, "rename", _rename, "give a run a name", "RUN", "NAME")
    _verb(verbs, "note", _note, "write a note to a run; empty removes it", "RUN", "TEXT")
    _verb(verbs, "tag", _tag, "set the tags of a run; none removes them", "RUN").add_argument("tags", nargs="*")
    duplicate = _verb(verbs, "duplicate", _duplicate, "put the same job into the queue again", "RUN")
    duplicate.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    _verb(verbs, "pause", _pause, "end the run at work after its layer")
    _verb(verbs, "stop", _stop, "end the run at work now; finished blocks stay")
    _verb(verbs, "proceed", _proceed, "let the queue go on, whatever was paused")
    _verb(verbs, "move", _move, "bring a waiting run forward", "RUN").add_argument("by", type=int, metavar="PLACES")
    _verb(verbs, "remove", _remove, "take a waiting run out of the queue", "RUN")
    delete = _verb(verbs, "delete", _delete, "delete a run: its row and its directory", "RUN")
    delete.add_argument("--checkpoint", action="store_true", help="also the model it made")
    delete.add_argument("--yes", action="store_true", help="do it; without this, sizes are told and nothing is deleted")
    _sharing(verbs)


def _sharing(verbs: Any) -> None:
    export = _verb(verbs, "export", _export, "copy a finished model to a folder, with a model card", "RUN", "DIR")
    export.add_argument("--link", action="store_true", help="second names for the same bytes, where the disk can")
    push = _verb(verbs, "push", _push, "upload a finished model to the hub, with a model card", "RUN", "OWNER/NAME")
    push.add_argument("--public", action="store_true", help="for everybody to see (default: private)")


def _verb(verbs: Any, name: str, run: Verb, text: str, *arguments: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text)
    for argument in arguments:
        parser.add_argument("run_id" if argument == "RUN" else argument.split("/")[-1].lower(), metavar=argument)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def list_runs(options: argparse.Namespace) -> list[dict[str, Any]]:
    runs = Store().queue() if options.queue else Store().list()
    for each in runs:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.created))
        tags = f"  [{', '.join(each.tags)}]" if each.tags else ""
        print(f"{each.id:<8} {each.status:<12} {when}  {each.name}{tags}  ->  {each.job.out}", file=sys.stderr)
    if not runs:
        print("The queue is empty." if options.queue else "No runs yet.", file=sys.stderr)
    elif options.queue and (held := queue.holders()) and not active():
        names = ", ".join(each.id for each in held)
        print(f"The queue waits for {names}: resume, or `runs proceed`.", file=sys.stderr)
    return [_row(each) for each in runs]


def _row(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "model": run.job.model,
        "out": run.job.out,
        "created": run.created,
        "result": run.result,
        "error": run.error,
        "note": run.note,
        "tags": list(run.tags),
    }


def _rename(options: argparse.Namespace) -> dict[str, Any]:
    return _row(Store().describe(options.run_id, name=options.name))


def _note(options: argparse.Namespace) -> dict[str, Any]:
    return _row(Store().describe(options.run_id, note=options.text))


def _tag(options: argparse.Namespace) -> dict[str, Any]:
    return _row(Store().describe(options.run_id, tags=options.tags))


def _duplicate(options: argparse.Namespace) -> dict[str, Any]:
    from quip_engine.plan import make_plan  # noqa: PLC0415 - torch takes seconds to import

    job = replace(Store().get(options.run_id).job, out=str(Path(options.out).absolute()))
    make_plan(job)
    return _said(enqueue(job))


def _pause(_options: argparse.Namespace) -> dict[str, Any]:
    if run := active():
        pause(run.id)
    return _said(run)


def _stop(_options: argparse.Namespace) -> dict[str, Any]:
    if run := active():
        stop(run.id)
    return _said(Store().get(run.id) if run else None)


def _proceed(_options: argparse.Namespace) -> dict[str, Any]:
    return _said(proceed())


def _move(options: argparse.Namespace) -> list[dict[str, Any]]:
    queue.move(options.run_id, options.by)
    return list_runs(argparse.Namespace(queue=True))


def _remove(options: argparse.Namespace) -> list[dict[str, Any]]:
    queue.remove(options.run_id)
    return list_runs(argparse.Namespace(queue=True))


def _said(run: Run | None) -> dict[str, Any]:
    print(f"{run.id} {run.status}: {run.name}" if run else "Nothing to do.", file=sys.stderr)
    return _row(run) if run else {}


def _delete(options: argparse.Namespace) -> dict[str, Any]:
    from quip_engine.runs.removal import delete, footprint  # noqa: PLC0415 - torch, through the checkpoint

    run = Store().get(options.run_id)
    size = footprint(run)
    print(f"{run.id}, log and work: {size.directory / 1e6:.2f} MB in {run.directory}", file=sys.stderr)
    model = f"{size.checkpoint / 1e6:.2f} MB" if size.checkpoint is not None else f"stays, {size.kept}"
    print(f"its model: {model} ({size.folder})", file=sys.stderr)
    if not options.yes:
        print("Nothing is deleted yet: add --yes.", file=sys.stderr)
    else:
        delete(run.id, checkpoint=options.checkpoint)
    freed = size.directory + ((size.checkpoint or 0) if options.checkpoint else 0)
    return {"id": run.id, "deleted": options.yes, "bytes": freed, "checkpoint": str(size.folder)}


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done / 1e6:.1f} of {total / 1e6:.1f} MB", end="", file=sys.stderr, flush=True)


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from quip_engine.runs.sharing import export_run  # noqa: PLC0415

    run, target = Store().get(options.run_id), Path(options.dir).absolute()
    size = export_run(run, target, link=options.link, progress=_progress)
    print(f"{target}: {size / 1e6:.1f} MB with a model card", file=sys.stderr)
    return {"id": run.id, "folder": str(target), "bytes": size}


def _push(options: argparse.Namespace) -> dict[str, Any]:
    from quip_engine.runs.sharing import push_run  # noqa: PLC0415

    run = Store().get(options.run_id)
    url = push_run(run, options.name, private=not options.public, progress=_progress)
    print(url, file=sys.stderr)
    return {"id": run.id, "url": url}
