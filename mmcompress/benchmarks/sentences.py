"""Speech that nobody trained on: sentences of everyday English, spoken by espeak-ng."""

import shutil
import subprocess
from pathlib import Path

from mmcompress.data.pairs import GivenPairs

HARVARD = """\
The birch canoe slid on the smooth planks.
Glue the sheet to the dark blue background.
It's easy to tell the depth of a well.
These days a chicken leg is a rare dish.
Rice is often served in round bowls.
The juice of lemons makes fine punch.
The box was thrown beside the parked truck.
The hogs were fed chopped corn and garbage.
Four hours of steady work faced us.
A large size in stockings is hard to sell.
The boy was there when the sun rose.
A rod is used to catch pink salmon.
The source of the huge river is the clear spring.
Kick the ball straight and follow through.
Help the woman get back to her feet.
A pot of tea helps to pass the evening.
Smoky fires lack flame and heat.
The soft cushion broke the man's fall.
The salt breeze came across from the sea.
The girl at the booth sold fifty bonds.
The small pup gnawed a hole in the sock.
The fish twisted and turned on the bent hook.
Press the pants and sew a button on the vest.
The swan dive was far short of perfect.
The beauty of the view stunned the young boy.
Two blue fish swam in the tank.
Her purse was full of useless trash.
The colt reared and threw the tall rider.
It snowed, rained, and hailed the same morning.
Read verse out loud for pleasure.
""".splitlines()
"""Lists 1 to 3 of "IEEE Recommended Practice for Speech Quality Measurements", 1969."""

SPEAKER = "espeak-ng"


def spoken(folder: Path) -> GivenPairs:
    """The sentences with their text as the split `test`; sounds that are there are kept.

    Args:
        folder: for a .wav each.
    Raises:
        ValueError: espeak-ng is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for number, sentence in enumerate(HARVARD):
        file = folder / f"{number:02d}.wav"
        if not file.exists():
            _speak(sentence, file)
        pairs.append((str(file), sentence))
    return GivenPairs({"test": pairs}, eval_batch_size=8)


def _speak(sentence: str, file: Path) -> None:
    if shutil.which(SPEAKER) is None:
        raise ValueError(
            f"sentences that nobody trained on are spoken by {SPEAKER}, which is not installed: "
            f"apt-get install {SPEAKER}"
        )
    subprocess.run([SPEAKER, "-v", "en-us", "-w", str(file), sentence], check=True)
