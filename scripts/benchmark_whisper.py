"""Every family on Whisper: word error rates and bytes, of a model tuned here and of the stock one.

    python scripts/benchmark_whisper.py --data SHARDS --model FOLDER --out docs/results

`SHARDS` is a folder of WebDataset shards of sounds with transcripts, `FOLDER` one with a Whisper.
The sentences of other speech are spoken by espeak-ng (`apt-get install espeak-ng`).
"""

from mmcompress.benchmarks.whisper import main

if __name__ == "__main__":
    main()
