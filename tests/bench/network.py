"""SFTP, S3, FTP, WebDAV and SMB against their peers, on the harness's servers. Imported by bench.py, which has the stopwatch."""

import json
import os
import pathlib
import shutil
import subprocess
import time

GIB = int(os.environ.get("BENCH_MIB", 1024)) << 20
SMALL_FILES = int(os.environ.get("BENCH_FILES", 2000))
ALL = ("sshd", "garage", "vsftpd", "apache", "samba")
# How long a throttled transfer is watched; how much of a sparse image is sent.
SECONDS = int(os.environ.get("BENCH_SECONDS", 30))
MEMORY = int(os.environ.get("BENCH_MEMORY_GIB", 8)) << 30
# Each of three targets at once, and alone.
HELD_TO = 40_000_000


class Helper:
    """A program of the harness that answers each line with a line."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said = self.process.stdout.readline().strip()

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Servers(Helper):
    def __init__(self, built, *names):
        super().__init__(built / "servers", *names)
        found = json.loads(self.said)
        self.sshd, self.garage = found["sshd"], found["garage"]
        self.vsftpd = found.get("vsftpd") or found.get("vsftpd-tls")
        self.apache, self.samba = found.get("apache"), found.get("samba")

    def reset(self):
        self.ask("reset")


def sftp_flags(sshd, address=None):
    url = sshd["url"].replace(sshd["address"], address or sshd["address"])
    return ["--to", url, "--option", f"key_file={sshd['key']}", "--option", f"known_hosts={sshd['known_hosts']}"]


def sftp_peers(sshd, source, address=None):
    host, port = (address or sshd["address"]).rsplit(":", 1)
    remote = (
        f":sftp,host={host},port={port},user={sshd['user']},key_file={sshd['key']},"
        f"known_hosts_file={sshd['known_hosts']}:{sshd['data']}/copy"
    )
    batch = f"put -r {source} {sshd['data']}/copy"
    sftp = (
        f"echo '{batch}' | sftp -q -b - -F none -o UserKnownHostsFile={sshd['known_hosts']} -i {sshd['key']}"
        f" -P {port} {sshd['user']}@{host}"
    )
    return {"rclone copy": ["rclone", "copy", str(source), remote, "--config", "/dev/null"], "OpenSSH sftp": sftp}


def s3_flags(garage, address=None):
    os.environ["BENCH_S3_KEY"] = garage["access_key_id"]
    os.environ["BENCH_S3_SECRET"] = garage["secret_access_key"]
    return [
        *("--to", f"s3+http://{address or garage['address']}/{garage['bucket']}/copy"),
        *("--option", f"region={garage['region']}"),
        *("--credential", "access_key_id=env:BENCH_S3_KEY"),
        *("--credential", "secret_access_key=env:BENCH_S3_SECRET"),
    ]


def s3_peers(garage, source):
    os.environ["AWS_ACCESS_KEY_ID"] = garage["access_key_id"]
    os.environ["AWS_SECRET_ACCESS_KEY"] = garage["secret_access_key"]
    os.environ["AWS_REGION"] = garage["region"]
    remote = (
        f":s3,provider=Other,env_auth=true,region={garage['region']},endpoint='{garage['endpoint']}',"
        f"force_path_style=true:{garage['bucket']}/copy"
    )
    return {
        "rclone copy": ["rclone", "copy", str(source), remote, "--config", "/dev/null"],
        "s5cmd cp": [
            *("s5cmd", "--endpoint-url", garage["endpoint"], "--log", "error"),
            *("cp", f"{source}/", f"s3://{garage['bucket']}/copy/"),
        ],
    }


def ftp_flags(server, address=None):
    os.environ["BENCH_FTP_PASSWORD"] = server["password"]
    url = server["url"].replace(server["address"], address or server["address"])
    trust = ["--option", f"ca_file={server['ca_file']}"] if url.startswith("ftps:") else []
    return ["--to", url, "--credential", "password=env:BENCH_FTP_PASSWORD", *trust]


def ftp_peers(server, source):
    secure = server["url"].startswith("ftps:")
    os.environ["LFTP_PASSWORD"] = server["password"]
    os.environ["RCLONE_FTP_PASS"] = obscured(server["password"])
    host, port = server["address"].rsplit(":", 1)
    remote = f":ftp,host={host},port={port},user={server['user']},explicit_tls={'true' if secure else 'false'}:copy"
    settings = f"set ftp:ssl-force true; set ssl:ca-file {server['ca_file']}" if secure else "set ftp:ssl-allow false"
    script = f"{settings}; open --env-password -u {server['user']} ftp://{server['address']}; mirror -R -P 4 {source} copy"
    trust = ["--ca-cert", server["ca_file"]] if secure else []
    return {
        "rclone copy": ["rclone", "copy", str(source), remote, *trust, "--config", "/dev/null"],
        "lftp mirror -R -P 4": ["lftp", "--norc", "-c", script],
    }


def obscured(password):
    """As rclone wants its passwords."""
    command = ["rclone", "obscure", "-"]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=True).stdout.strip()


def webdav_flags(apache, address=None):
    os.environ["BENCH_DAV_PASSWORD"] = apache["password"]
    url = apache["basic"].replace(apache["address"], address or apache["address"])
    return ["--to", f"{url}copy", "--credential", "password=env:BENCH_DAV_PASSWORD"]


def webdav_peers(apache, root, source):
    os.environ["RCLONE_WEBDAV_PASS"] = obscured(apache["password"])
    base = f"http://{apache['address']}/basic"
    remote = f":webdav,url='{base}',vendor=other,user={apache['user']}:copy"
    # curl makes no folders: they are asked for first, each by a request of its own.
    login = f'user = "{apache["user"]}:{apache["password"]}"\nfail\nsilent\nshow-error\noutput = /dev/null\n'
    below = [path.relative_to(source) for path in sorted(source.rglob("*"))]
    make, put = root / "curl-folders", root / "curl-files"
    folders = ["copy", *(f"copy/{path}" for path in below if (source / path).is_dir())]
    make.write_text("next\n".join(f'{login}request = MKCOL\nurl = "{base}/{path}/"\n' for path in folders))
    files = [path for path in below if (source / path).is_file()]
    put.write_text(
        "next\n".join(f'{login}upload-file = "{source / path}"\nurl = "{base}/copy/{path}"\n' for path in files)
    )
    return {
        "rclone copy": ["rclone", "copy", str(source), remote, "--config", "/dev/null"],
        "curl -T, four at once": f"curl -K {make} && curl --no-progress-meter -Z --parallel-max 4 -K {put}",
    }


def smb_flags(samba, address=None):
    os.environ["BENCH_SMB_PASSWORD"] = samba["password"]
    url = samba["url"].replace(samba["address"], address or samba["address"])
    return ["--to", f"{url}/copy", "--credential", "password=env:BENCH_SMB_PASSWORD"]


def smb_peers(samba, source):
    os.environ["RCLONE_SMB_PASS"] = obscured(samba["password"])
    os.environ["PASSWD"] = samba["password"]  # smbclient's
    host, port = samba["address"].rsplit(":", 1)
    remote = f":smb,host={host},port={port},user={samba['user']}:{samba['share']}/copy"
    script = f"prompt off; recurse on; mkdir copy; cd copy; lcd {source}; mput *"
    return {
        "rclone copy": ["rclone", "copy", str(source), remote, "--config", "/dev/null"],
        "smbclient mput": ["smbclient", f"//{host}/{samba['share']}", "-p", port, "-U", samba["user"], "-c", script],
    }


def scenes(bench, root):
    """(title, folder, bytes) of each thing to copy: one large image, and many small files."""
    large, small = root / "net-large", root / "net-small"
    if not large.exists():
        bench.fresh(large)
        bench.random_file(large / "disk-b000.spf", GIB)
        bench.fresh(small)
        for n in range(SMALL_FILES):
            folder = small / f"set{n // 40:03}"
            folder.mkdir(exist_ok=True)
            name = "disk-b000.spf" if n % 40 == 0 else f"disk-b000-i{n % 40:03}.spi"
            (folder / name).write_bytes(os.urandom(64 << 10))
    yield f"1 image of {GIB >> 20} MiB", large, GIB
    yield f"{SMALL_FILES} files of 64 KiB", small, SMALL_FILES << 16


def contest(bench, root, title, servers, flags, peers):
    for what, source, size in scenes(bench, root):
        contestants = {"offsite": bench.offsite_flags(root, source, flags)} | peers(source)

        def scene(_):
            servers.reset()
            shutil.rmtree(root / "state", ignore_errors=True)

        bench.table(f"{title}: {what}", bench.in_turn(contestants, scene), size)


def sftp(bench, root):
    with Servers(bench.BUILT, "sshd") as servers:
        peers = lambda source: sftp_peers(servers.sshd, source)
        contest(bench, root, "SFTP (OpenSSH)", servers, sftp_flags(servers.sshd), peers)


def sftp_far(bench, root):
    with Servers(bench.BUILT, "sshd") as servers:
        with Helper(bench.BUILT / "fault-proxy", servers.sshd["address"], 50) as proxy:
            address = proxy.said
            servers.ask(f"know {address}")
            peers = lambda source: sftp_peers(servers.sshd, source, address)
            flags = sftp_flags(servers.sshd, address)
            contest(bench, root, "SFTP, 50 ms round trip", servers, flags, peers)


def s3(bench, root):
    with Servers(bench.BUILT, "garage") as servers:
        peers = lambda source: s3_peers(servers.garage, source)
        contest(bench, root, "S3 (Garage)", servers, s3_flags(servers.garage), peers)


def ftp(bench, root):
    for name, title in (("vsftpd", "FTP (vsftpd)"), ("vsftpd-tls", "FTPS (vsftpd)")):
        with Servers(bench.BUILT, name) as servers:
            peers = lambda source: ftp_peers(servers.vsftpd, source)
            contest(bench, root, title, servers, ftp_flags(servers.vsftpd), peers)


def webdav(bench, root):
    with Servers(bench.BUILT, "apache") as servers:
        peers = lambda source: webdav_peers(servers.apache, root, source)
        contest(bench, root, "WebDAV (Apache)", servers, webdav_flags(servers.apache), peers)


def smb(bench, root):
    with Servers(bench.BUILT, "samba") as servers:
        peers = lambda source: smb_peers(servers.samba, source)
        contest(bench, root, "SMB (Samba)", servers, smb_flags(servers.samba), peers)


def behind_proxies(servers):
    """(name, server, arguments of a proxy before it, flags given the proxy's address) of each that BENCH_SERVERS names."""
    vsftpd = servers.vsftpd
    all_of_them = (
        ("sftp", servers.sshd, [], sftp_flags),
        ("s3", servers.garage, [], s3_flags),
        ("ftp", vsftpd, [0, *vsftpd["passive"]], ftp_flags),
        ("webdav", servers.apache, [], webdav_flags),
        ("smb", servers.samba, [], smb_flags),
    )
    for name, server, more, flags in all_of_them:
        if name in os.environ.get("BENCH_SERVERS", name).split(","):
            yield name, server, [server["address"], *more], lambda at: flags(server, at)


def together(bench, root):
    """Folder, SFTP and S3 at once, each held to a rate, against each of them alone."""
    _, source, size = next(scenes(bench, root))
    with Servers(bench.BUILT) as servers:
        s3_flags(servers.garage)
        sshd, garage, folder = servers.sshd, servers.garage, root / "together"
        targets = {
            "folder": f'url = "{folder}"',
            "sftp": f'url = "{sshd["url"]}"\n'
            f'options = {{ key_file = "{sshd["key"]}", known_hosts = "{sshd["known_hosts"]}" }}',
            "s3": f'url = "s3+http://{garage["address"]}/{garage["bucket"]}/copy"\n'
            f'options = {{ region = "{garage["region"]}" }}\n'
            'credentials = { access_key_id = { env = "BENCH_S3_KEY" }, secret_access_key = { env = "BENCH_S3_SECRET" } }',
        }

        def config(name, chosen):
            text = f'[[job]]\nname = "bench"\nsource = "{source}"\nsettle = "0s"\n'
            for target in chosen:
                text += f'[[job.target]]\nname = "{target}"\nbandwidth = "{HELD_TO // 1_000_000}MB"\n{targets[target]}\n'
            path = root / f"{name}.toml"
            path.write_text(text)
            return [bench.OFFSITE, "--config", path, "--state-dir", root / "state", "run"]

        contestants = {name: config(name, [name]) for name in targets}
        contestants["all three at once"] = config("all", targets)

        def scene(_):
            servers.reset()
            bench.fresh(folder)
            shutil.rmtree(root / "state", ignore_errors=True)

        medians = bench.in_turn(contestants, scene)
        bench.table("folder + SFTP + S3, each held to 40 MB/s", medians, size, ours="all three at once")
        slowest = max(median for name, median in medians.items() if name in targets)
        print(f"  at once / slowest alone: {medians['all three at once'] / slowest:.2f}")


def six(bench, root):
    """Every kind of target, three in each of two jobs that run at once, unthrottled: what is the machine busy with?"""
    _, source, size = next(scenes(bench, root))
    with Servers(bench.BUILT, *ALL) as servers:
        folder, config = root / "six", root / "six.toml"
        flags = {
            "folder": ["--to", folder],
            "sftp": sftp_flags(servers.sshd),
            "s3": s3_flags(servers.garage),
            "ftp": ftp_flags(servers.vsftpd),
            "webdav": webdav_flags(servers.apache),
            "smb": smb_flags(servers.samba),
        }
        names = list(flags)
        text = ""
        for job, chosen in (("one", names[:3]), ("two", names[3:])):
            text += f'[[job]]\nname = "{job}"\nsource = "{source}"\nsettle = "0s"\n'
            text += "".join(as_target(name, flags[name]) for name in chosen)
        config.write_text(text)
        command = f"{bench.OFFSITE} --config {config} --state-dir {root / 'state'} run"
        contestants = {name: bench.offsite_flags(root, source, flags[name]) for name in names}
        contestants["all six at once"] = f"{command} one & first=$!; {command} two && wait $first"
        busy = []

        def scene(name):
            servers.reset()
            bench.fresh(folder)
            shutil.rmtree(root / "state", ignore_errors=True)
            busy.append((name, machine()))

        medians = bench.in_turn(contestants, scene, lambda name: busy.append((name, machine())))
        bench.table("six targets in two jobs, no throttle", medians, size, ours="all six at once")
        alone = sum(median for name, median in medians.items() if name in flags)
        print(f"  at once / the sum of each alone: {medians['all six at once'] / alone:.2f}")
        pairs = [(a, b) for (name, a), (_, b) in zip(busy[::2], busy[1::2]) if name == "all six at once"]
        shares = [[(y - x) / (b[0] - a[0]) for x, y in zip(a[1:], b[1:])] for a, b in pairs[1:]]
        cpu, disk = (sorted(column)[len(column) // 2] for column in zip(*shares))
        print(f"  meanwhile the processors were busy for {cpu:.0%} of the time, the busiest disk for {disk:.0%}")


def as_target(name, flags):
    """The flags of one target as the configuration file has them."""
    told = dict(url=None, options=[], credentials=[])
    for flag, value in zip(flags[::2], flags[1::2]):
        if flag == "--to":
            told["url"] = value
        key, _, rest = str(value).partition("=")
        if flag == "--option":
            told["options"].append(f'{key} = "{rest}"')
        if flag == "--credential":
            told["credentials"].append(f'{key} = {{ env = "{rest.removeprefix("env:")}" }}')
    tables = "".join(f"{key} = {{ {', '.join(told[key])} }}\n" for key in ("options", "credentials") if told[key])
    return f'[[job.target]]\nname = "{name}"\nurl = "{told["url"]}"\n{tables}'


def machine():
    """(time, processors busy, busiest disk busy), all in seconds; the processors' divided by their number."""
    ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    # Idle, and waiting for a disk, are not busy.
    processors = (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") / os.cpu_count()
    disks = [int(line.split()[12]) / 1000 for line in pathlib.Path("/proc/diskstats").read_text().splitlines()]
    return time.perf_counter(), processors, max(disks)


def wire(bench, root):
    """The throttle, counted by a proxy before the server."""
    print(f"\nthrottle on the wire, over {SECONDS} s")
    with Servers(bench.BUILT, *ALL) as servers:
        for name, _, upstream, flags in behind_proxies(servers):
            for rate, label in ((64 << 10, "64KiB"), (10_000_000, "10MB")):
                with Helper(bench.BUILT / "fault-proxy", *upstream) as proxy:
                    servers.ask(f"know {proxy.said}")
                    reached = on_the_wire(bench, root, proxy, flags(proxy.said), rate, label)
                print(f"  {name:<6} asked {rate:>10} B/s   reached {reached:>12.0f} B/s   {100 * (reached / rate - 1):+.1f} %")
                servers.reset()


def on_the_wire(bench, root, proxy, flags, rate, label):
    source = root / "slow"
    bench.fresh(source)
    shutil.rmtree(root / "state", ignore_errors=True)
    bench.random_file(source / "disk-b000.spf", max(rate * 2 * SECONDS // (1 << 20), 16) << 20)
    up = lambda: int(proxy.ask("count").split()[0])
    command = bench.offsite_flags(root, source, [*flags, "--bandwidth", label])
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while up() < rate and run.poll() is None:
        time.sleep(0.05)
    begin, start = up(), time.perf_counter()
    time.sleep(SECONDS)
    reached = (up() - begin) / (time.perf_counter() - start)
    if run.poll() is not None:
        print(f"  it ended early, exit {run.returncode}: {run.stderr.read().strip()[-300:]}")
    run.terminate()
    run.communicate()
    return reached


class Roomy:
    """A file system with room for 2 TiB, on paper, over a server's folder: some plugins refuse what does not fit. Needs root."""

    def __init__(self, root, folder):
        self.image, self.folder = root / "roomy.img", folder

    def __enter__(self):
        if self.folder:
            owner = os.stat(self.folder)
            with open(self.image, "wb") as out:
                out.truncate(2 << 40)
            make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1"]
            subprocess.run([*make, self.image], check=True)
            subprocess.run(["mount", "-o", "loop", self.image, self.folder], check=True)
            os.chown(self.folder, owner.st_uid, owner.st_gid)
            os.rmdir(os.path.join(self.folder, "lost+found"))

    def __exit__(self, *_):
        if self.folder:
            # A server may not have closed what it was receiving.
            subprocess.run(["umount", "-l", self.folder], check=True)
            self.image.unlink()


def memory(bench, root):
    """Highest resident set of a worker over the beginning of a sparse image of 1 TiB."""
    print(f"\nresident memory over the first {MEMORY >> 30} GiB of a 1 TiB sparse image")
    source = root / "net-sparse"
    bench.fresh(source)
    with open(source / "disk-b000.spf", "wb") as out:
        out.truncate(1 << 40)
    with Servers(bench.BUILT, *ALL) as servers:
        for name, server, upstream, flags in behind_proxies(servers):
            shutil.rmtree(root / "state", ignore_errors=True)
            with Roomy(root, server.get("data")), Helper(bench.BUILT / "fault-proxy", *upstream) as proxy:
                servers.ask(f"know {proxy.said}")
                command = bench.offsite_flags(root, source, flags(proxy.said))
                run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                peaks, sent = {}, 0
                while run.poll() is None and sent < MEMORY:
                    bench.look_at_children(run.pid, peaks)
                    sent = int(proxy.ask("count").split()[0])
                    time.sleep(0.1)
                run.terminate()
                said = run.communicate()[1]
            note = "" if sent >= MEMORY else f"   only {sent >> 20} MiB went: {said.strip()[-300:]}"
            print(f"  {name:<6}{max(peaks.values(), default=0) / 1024:8.1f} MiB{note}")
            servers.reset()
