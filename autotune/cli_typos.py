"""What to say of words on the command line that nothing is called by."""

import typer


def usage_message(error: typer.TyperException) -> str:
    """One line for an error of usage: what is wrong, what was probably meant, and where all of it is listed.

    Empty where the error is that nothing was asked for.
    """
    message = error.message if hasattr(error, "possibilities") else error.format_message()
    message = message.strip().replace("Value error, ", "")
    if not message:
        return ""
    meant = sorted(getattr(error, "possibilities", None) or ())
    if meant:
        message = f"{message}: did you mean {' or '.join(meant)}?"
    context = getattr(error, "ctx", None)
    return f"{message} (see `{context.command_path} --help`)" if context else message
