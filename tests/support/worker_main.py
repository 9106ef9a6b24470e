"""A client process that does what a test tells it: a line of JSON (Python code) in, a line of JSON out."""

import json
import os
import sys

import numpy as np
import penstock

from support.pattern import pattern, shows


def main() -> None:
    scope = {"np": np, "os": os, "penstock": penstock, "pattern": pattern, "shows": shows}
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the code prints is no reply
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line), scope), default=repr) + "\n")
        replies.flush()


def answer(code: str, scope: dict) -> dict:
    try:
        try:
            compiled = compile(code, "<test>", "eval")
        except SyntaxError:
            exec(compile(code, "<test>", "exec"), scope)
            return {"value": None}
        return {"value": eval(compiled, scope)}
    except BaseException as error:
        return {"error": type(error).__name__, "text": str(error)}


if __name__ == "__main__":
    main()
