"""The subcommands: a module each, with HELP, add_arguments(parser) and run(args, console) -> exit status."""

from types import ModuleType

from mixfast.commands import bench, data, doctor, evaluate, flops, recipes, report, train

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "eval": evaluate,
    "recipes": recipes,
    "data": data,
    "flops": flops,
    "bench": bench,
    "report": report,
    "doctor": doctor,
}
