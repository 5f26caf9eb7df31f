"""The questions of the handbook with their answers, as rows for training and for the test."""

import tomllib
from pathlib import Path

FILE = Path(__file__).with_name("handbook.toml")


def rows(split: str) -> list[dict[str, str]]:
    """Return one row for each entry about each subject of a split, `train` or `test`.

    `other` is an answer about the same subject that does not help: what a model confuses most. The
    way in which a question is put changes from subject to subject.
    """
    handbook = tomllib.loads(FILE.read_text(encoding="utf-8"))
    entries = handbook["entries"]
    found = []
    for turn, subject in enumerate(handbook["subjects"][split]):
        for number, entry in enumerate(entries):
            questions = entry["questions"]
            other = entries[(number + 1 + 3 * turn % (len(entries) - 1)) % len(entries)]
            found.append(
                {
                    "question": questions[(number + turn) % len(questions)].format(subject),
                    "answer": entry["answer"].format(subject),
                    "other": other["answer"].format(subject),
                }
            )
    return found
