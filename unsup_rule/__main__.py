"""`python -m unsup_rule`."""

import sys

from unsup_rule.cli.main import main

sys.exit(main())
