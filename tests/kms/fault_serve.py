"""`kms serve` with the fault injector for engines: fault_serve.py HOME."""

import sys
from pathlib import Path

from kms.config import load_config
from kms.supervisor import serve

if __name__ == "__main__":
    home = Path(sys.argv[1])
    engine = Path(__file__).with_name("fault_engine.py")
    sys.exit(serve(home, load_config(home), [sys.executable, str(engine)]))
