"""`steerkit serve`: an OpenAI-compatible server of one model, each request under its own steering."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from steerkit.cli import console, options
from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from steerkit.serving.scheduler import Scheduler


def serve(
    model: options.Model = options.DEFAULT_MODEL,
    vectors: Annotated[
        Path | None,
        Option(
            metavar="FOLDER", help="Whose vectors and probes requests may name, beside the published ones."
        ),
    ] = None,
    host: Annotated[
        str, Option(help="Where to listen; other than this machine alone needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        Option(envvar="STEERKIT_SERVER_API_KEY", show_envvar=True, help="The key that clients have to send."),
    ] = None,
    most_waiting: Annotated[int, Option(min=1, help="Rows that may wait; further ones get 429.")] = 256,
    most_tokens: Annotated[
        int | None, Option(min=1, help="The longest completion; default: what the model reads.")
    ] = None,
    served_name: Annotated[str | None, Option(help="What clients call the model; default: as here.")] = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    batch_size: Annotated[int | None, Option(min=1, help="Rows that decode together.")] = None,
    allow_mismatch: options.AllowMismatch = False,
    workbench: Annotated[
        bool, Option(help="Serve the workbench too: a page to try, compare, look at runs and make vectors.")
    ] = True,
    runs: Annotated[
        Path | None, Option(metavar="FOLDER", help="Whose run directories the workbench shows.")
    ] = None,
) -> None:
    """Serve a model to OpenAI's clients, each request under its own steering, and to a browser (the workbench).

    A request names its steering as "vllm_xargs": {"steerkit": ["VECTOR@layer=14,strength=1"]}. Ends at Ctrl-C.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    template = options.template_options(template_option)
    needs = ("fastapi", "uvicorn", "gradio") if workbench else ("fastapi", "uvicorn")
    if missing := [name for name in needs if find_spec(name) is None]:
        raise MisuseError(f"steerkit serve needs {' and '.join(missing)}: pip install 'steerkit-lm[serve]'")
    from steerkit.serving.address import Address
    from steerkit.serving.limits import Limits

    address, limits = Address(host, port, api_key), Limits(most_waiting=most_waiting, most_tokens=most_tokens)
    for option, given in (("--vectors", vectors), ("--runs", runs)):
        if given is not None and not given.is_dir():
            raise MisuseError(f"{option} {given} is not a folder: make it, or name another one")
    if runs is not None and not workbench:
        raise MisuseError("--runs is for the workbench: leave out --no-workbench")
    folder = None if vectors is None else vectors.resolve()
    from steerkit.engines.catalogue import engine_for
    from steerkit.serving import running

    with address.bound() as bound:
        lm = console.load(model, placement, dtype, template)
        engine = engine_for(lm, batch_size, allow_mismatch=allow_mismatch)
        name = served_name or lm.name
        shown = running.steering_to_show(engine, folder)

        def add_workbench(app: FastAPI, scheduler: Scheduler) -> None:
            from steerkit.serving.workbench import mount

            mount(app, lm, scheduler, folder, runs, key=address.key, exact=not allow_mismatch)

        server = running.make_server(
            engine,
            address,
            limits,
            name=name,
            folder=folder,
            exact=not allow_mismatch,
            more=add_workbench if workbench else None,
        )

        def ready() -> None:
            url = address.url(bound.getsockname()[1])
            page = f", and to a browser at {url}" if workbench else ""
            console.show(f"{name} is served at {url}/v1{page}; Ctrl-C ends it")
            console.show(running.example(url, name, shown, has_key=address.key is not None))
            console.out.file.flush()

        running.run(server, bound, ready)
    console.say("stopped")
