"""``featx demo``."""

from __future__ import annotations

import time

import click

from featx.cli.common import Output, json_option, seed_option


@click.command("demo", short_help="The whole way on embedded images, offline.")
@click.option("-o", "--output", "folder", default="featx-demo", show_default=True, metavar="FOLDER")
@seed_option("Which ten images of each class are labelled.")
@json_option
def command(folder: str, seed: int, as_json: bool) -> None:
    """Learn handwritten digits from ten labelled images of each, and compare with two references.

    Needs no network, no GPU and no data: the digits come with scikit-learn, the network with featx.
    """
    import featx
    from featx.demo.digits import run_demo, transfer_gain

    output = Output(as_json)
    started = time.perf_counter()

    def show(results: featx.Results) -> None:
        from featx.report.terminal import print_results

        print_results(results.to_json(), output.console)
        output.line(click.wrap_text(transfer_gain(results), 80))

    with output.progress() as on_progress:
        results = run_demo(folder, seed=seed, on_progress=on_progress, on_results=show)
    seconds = time.perf_counter() - started
    output.json(
        results.to_json()
        | {"run": f"{folder}/run", "sentence": transfer_gain(results), "demo_seconds": seconds}
    )
    output.line(f"{folder}/run holds the report and the model; {seconds:.0f} s")
    output.line("next: featx extract YOUR_FOLDER -o photos.h5 --backbone featx-tiny")
