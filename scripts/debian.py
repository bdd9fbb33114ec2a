"""Programs of Debian packages that tests and benchmarks talk to."""
import os
import shutil
import subprocess


def have(program, package):
    """True when a program is there; installs its package when it isn't, where there is apt."""
    if shutil.which("apt-get") and not shutil.which(program):
        for command in (["update", "--quiet"], ["install", "--yes", "--quiet", "--no-install-recommends", package]):
            # RUNLEVEL: nothing that the package brings is started.
            subprocess.run(["apt-get", *command], stdout=subprocess.DEVNULL, check=False,
                           env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"})
    return shutil.which(program) is not None
