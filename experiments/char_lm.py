"""A model of characters, in three commands; each is a script of the folder ``character_model``.

python experiments/char_lm.py --data tiny_shakespeare --split 90/10 --minutes 10 --out runs/char_lm/mine
python experiments/char_lm.py sample runs/char_lm/mine --prompt "ROMEO:"
python experiments/char_lm.py table runs/char_lm/*
"""

import runpy
import sys
from pathlib import Path

command = sys.argv.pop(1) if {*sys.argv[1:2]} & {"train", "sample", "table"} else "train"
runpy.run_path(str(Path(__file__).parent / "character_model" / f"{command}.py"), run_name="__main__")
