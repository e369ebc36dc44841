"""Makes the environment of the course, `.venv`, and brings it up to date; does nothing
when it is.

    python3 tools/environment.py [--constraints FILE]
        [--requirements FILE --folder .venv-NAME --gigabytes N]

Needs the standard library only, and is written so that an old Python reaches the line
that says it is too old. `--constraints ""` takes the newest versions in the ranges of
requirements.txt. The other three make a second environment, as `make bench` does.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys


def stopped(kind, error, trace):
    """Ctrl-C ends this with a line; what was begun is made from the start next time."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nStopped. The same command makes the environment anew.")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = stopped
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 11), (3, 13)
MARK, ALSO = "course-environment", "course-environment-also"  # files in it
UNFINISHED = "unfinished"  # what the mark says until the end
NEEDED_GIGABYTES = 4.0  # TensorFlow and what it needs take 3 GB, and pip unpacks beside


def main():
    parser = argparse.ArgumentParser(
        description="Makes or updates the environment .venv of the course."
    )
    parser.add_argument(
        "--constraints",
        default="constraints.txt",
        help='exact versions; "" for the newest in range',
    )
    parser.add_argument(
        "--requirements", default="requirements.txt", help="what to install"
    )
    parser.add_argument(
        "--folder",
        default=".venv",
        help="the environment's folder, in the repository's root",
    )
    parser.add_argument(
        "--gigabytes",
        type=float,
        default=NEEDED_GIGABYTES,
        help="free space that it needs",
    )
    parser.add_argument("--also", default="", help="requirements to add, if not there")
    options = parser.parse_args()
    if hasattr(
        sys.stdout, "reconfigure"
    ):  # what a terminal cannot show of pip's words comes as "?"
        sys.stdout.reconfigure(errors="replace")
    chosen, requirements = options.constraints, options.requirements
    problem = unsuitable(sys.version_info, importlib.util.find_spec)
    if problem:
        sys.exit(problem)
    if chosen and not os.path.exists(os.path.join(ROOT, chosen)):
        sys.exit(
            "There is no file %s to take exact versions from: check CONSTRAINTS."
            % chosen
        )
    folder = os.path.join(ROOT, options.folder)
    wanted = fingerprint(chosen, requirements)
    also = options.also and fingerprint(chosen, options.also)
    try:
        if not is_current(folder, wanted):
            problem = foreign(folder) or disk_full(ROOT, options.gigabytes)
            if problem:
                sys.exit(problem)
            build(folder, chosen, wanted, requirements)
        if also and mark_of(folder, ALSO) != also:
            install(folder, options.also, chosen)
            write_mark(folder, also, ALSO)
    except OSError as error:
        sys.exit(
            "%s cannot be made (%s): free space or change the permissions."
            % (folder, error)
        )


def unsuitable(version, find_spec):
    """The line that says why this Python will not do, or None."""
    cure = "use one that will, as in: make run PYTHON=python3.12"
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        line = "This is Python %d.%d and the course needs 3.11 to 3.13: %s"
        return line % (
            version[0], version[1], cure,
        )  # fmt: skip
    absent = [name for name in ("venv", "ensurepip") if find_spec(name) is None]
    if absent:
        line = "This Python has no module %s (Debian and Ubuntu: "
        line += "apt install python%d.%d-venv): install it, or %s"
        return line % (
            absent[0], version[0], version[1], cure,
        )  # fmt: skip
    return None


def disk_full(folder, gigabytes):
    """The line that says that there is too little room, or None."""
    free = shutil.disk_usage(folder).free / 1e9
    if free >= gigabytes:
        return None
    line = "%.1f GB are free in %s and the environment needs %.0f GB: free some space."
    return line % (
        free, folder, gigabytes,
    )  # fmt: skip


def fingerprint(constraints, requirements="requirements.txt"):
    """Changes when the requirements, the constraints or the Python do."""
    digest = hashlib.sha256(
        (
            "%d.%d %s\n" % (sys.version_info[0], sys.version_info[1], constraints)
        ).encode()
    )
    for name in [requirements] + ([constraints] if constraints else []):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def python_of(folder):
    """The interpreter of an environment."""
    return (
        os.path.join(folder, "Scripts", "python.exe")
        if os.name == "nt"
        else os.path.join(folder, "bin", "python")
    )


def mark_of(folder, name=None):
    """What an environment's mark says: its fingerprint, UNFINISHED, or None."""
    try:
        with open(os.path.join(folder, name or MARK)) as file:
            return file.read()
    except OSError:
        return None


def is_current(folder, wanted):
    """Whether the environment was finished with this fingerprint and its interpreter is
    still there.
    """
    return mark_of(folder) == wanted and os.path.exists(python_of(folder))


def foreign(folder):
    """The line about a folder of this name that was not made here, or None."""
    if (
        mark_of(folder) is not None
        or not os.path.exists(folder)
        or not os.listdir(folder)
    ):
        return None
    return (
        "%s is there and was not made by this command: move it away, then run it again."
        % folder
    )


def build(folder, constraints, wanted, requirements="requirements.txt"):
    """Makes the environment, or brings one up to date; marks it as finished at the end.

    One that was not finished, because this was stopped or killed, is made anew: a
    package of which half is there looks to pip as if all were.
    """
    name = os.path.basename(folder)
    print(
        "Setting up %s with Python %d.%d: some minutes, once."
        % ((name,) + sys.version_info[:2]),
        flush=True,
    )
    update = mark_of(folder) not in (None, UNFINISHED) and version_of(folder) == list(
        sys.version_info[:2]
    )
    if not update and os.path.exists(folder):
        old = folder + "-old"  # a rename is done or not done, also when this is killed
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
        shutil.rmtree(old, ignore_errors=True)
    os.makedirs(folder, exist_ok=True)
    write_mark(folder, UNFINISHED)
    run([sys.executable, "-m", "venv", folder], "making " + name)
    install(folder, requirements, constraints)
    write_mark(folder, wanted)
    print("The environment is ready.", flush=True)


def install(folder, requirements, constraints):
    """Has pip install what a file of requirements names."""
    command = [python_of(folder), "-m", "pip", "install", "-r", requirements]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    command += ["-c", constraints] if constraints else []
    shown = ("Collecting", "Installing")
    what = "installing the packages of " + requirements
    run(command, what, show=lambda line: line.startswith(shown))


def write_mark(folder, text, name=None):
    with open(os.path.join(folder, name or MARK), "w") as file:
        file.write(text)


def version_of(folder):
    """[major, minor] of an environment's Python, or None if it does not start."""
    code = "import sys; print(sys.version_info[0], sys.version_info[1])"
    try:
        return [
            int(part)
            for part in subprocess.check_output([python_of(folder), "-c", code]).split()
        ]
    except (OSError, subprocess.CalledProcessError):
        return None


def run(command, what, show=lambda line: False):
    """Runs a command in the repository's root; on failure prints the end of its output
    and one line, and stops.

    Of its output it shows, on one line that is rewritten, what `show` picks.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if show(line) and sys.stdout.isatty():
            print("\r  %-76s" % line.strip()[:76], end="", flush=True)
    if sys.stdout.isatty():
        print("\r%-78s\r" % "", end="", flush=True)
    if process.wait() != 0:
        sys.stdout.write("".join(lines[-15:]))
        sys.exit(
            "Failed while %s. The lines above say why; with no network, a package "
            "index must be reachable." % what
        )


if __name__ == "__main__":
    main()
