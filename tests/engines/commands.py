"""The command lines, called in this process."""

from click.testing import CliRunner, Result


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])  # type: ignore[arg-type]
