"""A catalog whose data is lost and comes back from a backup, by the commands of the documentation.

The backup is of the last moment, when all processes have ended: whatever was acknowledged is in it,
in files or in logs. What a backup of before lacks is told by the tests of the clients.
"""

import os
import shutil
import subprocess

# One seed of so many begins with it, none of those that begin with a migration.
ONE_IN = 4
COMMAND_SECONDS = 60


def begins_restored(seed):
    return seed % ONE_IN == 0


def lose_and_restore(process):
    """Ends with a catalog made of the backup, in place of the one that is gone."""
    run(process, "backup")
    shutil.rmtree(process.data / "catalog")
    run(process, "restore")
    # Fails when a live file is missing.
    run(process, "check")


def run(process, command):
    words = [process.binary, "catalog", command]
    words += ["--config", process.folder / "config.yaml", "--data-dir", process.data]
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("FLIGHTCLUSTER_")},
    )
    if done.returncode:
        raise AssertionError(f"catalog {command} fails: {done.stdout}{done.stderr}")
