"""What the commands of ``linf-export`` do, one in each module.  Imports all rooms; ``cli.py`` imports what runs."""
