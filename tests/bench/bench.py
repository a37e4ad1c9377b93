"""Times offsite and its peers: whole processes, in turn, medians. Called by tests/bench/run."""

import contextlib
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import network

RUNS = int(os.environ.get("BENCH_RUNS", 5))
BUILT = pathlib.Path(sys.argv[1])
OFFSITE = BUILT / "offsite"


def timed(command, cwd=None):
    """Seconds of wall time of one command; infinite for a peer's that failed. Ours must not."""
    os.sync()
    start = time.perf_counter()
    done = subprocess.run(command, shell=isinstance(command, str), cwd=cwd, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        return seconds
    print(f"failed: {command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}", file=sys.stderr)
    if str(OFFSITE) in str(command):
        sys.exit(1)
    return math.inf


def in_turn(contestants, before, after=lambda _: None):
    """contestants: name -> command. Each runs RUNS times after one warm-up, in turn; before(name) makes the scene."""
    seconds = {name: [] for name in contestants}
    for turn in range(RUNS + 1):
        for name, command in contestants.items():
            before(name)
            took = timed(command)
            after(name)
            if turn:
                seconds[name].append(took)
    return {name: statistics.median(times) for name, times in seconds.items()}


def table(title, medians, size=None, ours="offsite"):
    print(f"\n{title}")
    for name, median in medians.items():
        if median == math.inf:
            print(f"  {name:<22}  failed")
            continue
        rate = f"{size / median / 1e6:8.0f} MB/s" if size else ""
        ratio = "" if name == ours else f"   peer / ours {median / medians[ours]:.2f}"
        print(f"  {name:<22}{median:8.3f} s {rate}{ratio}")


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def offsite(root, source, target, *more):
    return offsite_flags(root, source, ["--to", target, *more])


def offsite_flags(root, source, flags):
    return [OFFSITE, "--state-dir", root / "state", "run", "--source", source, "--settle", "0", *flags]


def random_file(path, size):
    with open(path, "wb") as out:
        for _ in range(size // (1 << 20)):
            out.write(os.urandom(1 << 20))


def copy(root):
    source, target = root / "source", root / "target"
    fresh(source)
    size = 1 << 30
    random_file(source / "disk-b000.spf", size)
    peers = {
        "offsite": offsite(root, source, target),
        "cp, sync": f"cp {source}/disk-b000.spf {target}/ && sync {target}/disk-b000.spf",
        "rclone copy": ["rclone", "copy", source, target, "--config", "/dev/null"],
        "dd write, fsync": f"dd if={source}/disk-b000.spf of={target}/x bs=4M conv=fsync status=none",
    }

    def scene(_):
        fresh(target)
        shutil.rmtree(root / "state", ignore_errors=True)

    table("1 GiB image, folder to folder (offsite: hash, fsync, sampled read-back)", in_turn(peers, scene), size)


def nochange(root):
    source, ours, theirs = root / "many", root / "many-offsite", root / "many-rclone"
    for folder in (source, ours, theirs):
        fresh(folder)
    for s in range(1000):
        folder = source / f"set{s:04}"
        folder.mkdir()
        for n in range(100):
            name = "disk-b000.spf" if n == 0 else f"disk-b000-i{n:03}.spi"
            (folder / name).write_bytes(b"%d %d" % (s, n))
    first = {"offsite": timed(offsite(root, source, ours)), "rclone copy": timed(["rclone", "copy", source, theirs])}
    table("100,000 small images, first run (one run)", first)
    peers = {"offsite": offsite(root, source, ours), "rclone copy": ["rclone", "copy", source, theirs]}
    table("100,000 images, no change", in_turn(peers, lambda _: None))


def written(target):
    """Bytes that lie on the target now, staged or published."""
    total = 0
    for folder, _, names in os.walk(target):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def throttle(root):
    print("\nthrottle, measured at the target over 30 s")
    source, target = root / "slow", root / "slow-target"
    for rate, label in ((64 << 10, "64KiB"), (10_000_000, "10MB")):
        fresh(source)
        fresh(target)
        shutil.rmtree(root / "state", ignore_errors=True)
        random_file(source / "disk-b000.spf", max(rate * 60 // (1 << 20), 1) << 20)
        run = subprocess.Popen(
            offsite(root, source, target, "--bandwidth", label), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while written(target) < rate and run.poll() is None:
            time.sleep(0.05)
        begin, start = written(target), time.perf_counter()
        time.sleep(30)
        reached = (written(target) - begin) / (time.perf_counter() - start)
        run.terminate()
        run.wait()
        print(f"  asked {rate:>10} B/s   reached {reached:>12.0f} B/s   {100 * (reached / rate - 1):+.1f} %")


def look_at_children(pid, peaks):
    """Raises peaks to the highest resident set so far of each child, KiB."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if fields.get("PPid", "").strip() == str(pid) and "VmHWM" in fields:
            peaks[entry.name] = max(peaks.get(entry.name, 0), int(fields["VmHWM"].split()[0]))


def memory(root):
    print("\nresident memory, highest of any worker")
    source, target = root / "large", root / "large-target"
    sparse = f"first {network.MEMORY >> 30} GiB of a 1 TiB sparse image"
    for title, size, most in (("1 GiB random image", 1 << 30, math.inf), (sparse, 1 << 40, network.MEMORY)):
        fresh(source)
        fresh(target)
        shutil.rmtree(root / "state", ignore_errors=True)
        room = contextlib.nullcontext()
        if most < math.inf:
            # A folder refuses what does not fit.
            room = network.Roomy(root, target)
            with open(source / "disk-b000.spf", "wb") as out:
                out.truncate(size)
        else:
            random_file(source / "disk-b000.spf", size)
        with room:
            run = subprocess.Popen(offsite(root, source, target), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            peaks = {}
            while run.poll() is None and written(target) < most:
                look_at_children(run.pid, peaks)
                time.sleep(0.1)
            run.terminate()
            said = run.communicate()[1].decode()[-300:]
            done = run.returncode == 0 if most == math.inf else written(target) >= most
            note = "" if done else f"   {said}"
        print(f"  {title:<40}{max(peaks.values(), default=0) / 1024:8.1f} MiB{note}")


def plan(_):
    print()
    subprocess.run([BUILT / "bench-plan"], check=True)


def of_network(bench):
    return lambda root: bench(sys.modules[__name__], root)


BENCHES = {
    "copy": copy,
    "nochange": nochange,
    "throttle": throttle,
    "memory": memory,
    "plan": plan,
    "sftp": of_network(network.sftp),
    "sftp-far": of_network(network.sftp_far),
    "s3": of_network(network.s3),
    "ftp": of_network(network.ftp),
    "webdav": of_network(network.webdav),
    "smb": of_network(network.smb),
    "together": of_network(network.together),
    "six": of_network(network.six),
    "wire": of_network(network.wire),
    "memory-network": of_network(network.memory),
}


def main():
    root = pathlib.Path(tempfile.mkdtemp(prefix="offsite-bench-", dir=os.environ.get("BENCH_DIR")))
    try:
        for name in sys.argv[2:] or BENCHES:
            BENCHES[name](root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


main()
