#!/usr/bin/env python3
"""What one reading of one machine costs: our agent, our shell probe, node_exporter, Glances; called by scripts/bench.sh agent.

Each count of processes has a PID namespace of its own, so that the count is exact; all are measured one after another on
the same machine. CPU is that of the program and of what it started, user and system, out of /proc/PID/stat.
"""

import argparse
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")
NONCE = "0123456789abcdef0123456789abcdef"
# Of a peer that says nothing; Glances needs a second before its first figures.
PATIENCE_S = 60


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def cpu_us(pid):
    """CPU time of a process and of its children that ended, in microseconds; 10 ms are the least that is told."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) * 1_000_000 / TICKS


def rss_kib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


class Line:
    """A program that answers requests over pipes."""

    def __init__(self, command):
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self.pid = self.child.pid

    def send(self, text):
        self.child.stdin.write(text.encode())

    def until(self, end):
        heard = b""
        while not heard.endswith(end):
            if not select.select([self.child.stdout], [], [], PATIENCE_S)[0]:
                raise SystemExit(f"bench: {self.child.args[0]} says nothing")
            piece = os.read(self.child.stdout.fileno(), 1 << 20)
            if not piece:
                raise SystemExit(f"bench: {self.child.args[0]} has ended")
            heard += piece
        return heard

    def stop(self):
        self.child.stdin.close()
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


def measure(pid, samples, ask):
    """Asks some times unmeasured, then measured."""
    for _ in range(5):
        size = len(ask())
    before = cpu_us(pid)
    for _ in range(samples):
        size = len(ask())
    return {
        "us_per_sample": (cpu_us(pid) - before) / samples,
        "rss_kib": rss_kib(pid),
        "bytes_per_sample": size,
    }


def agent(path, letters, samples):
    line = Line([path, "stream"])
    line.until(b"\n")

    def ask():
        line.send(f"r 1 -{letters}\n")
        return line.until(b"\n")

    result = measure(line.pid, samples, ask)
    line.stop()
    return result


def shell(script, letters, samples):
    line = Line(["/bin/sh"])
    line.send(script)
    line.until(f"\n@{NONCE} ready\n".encode())
    line.send("m\n+/\n")
    number = 0

    def ask():
        nonlocal number
        number += 1
        # As the central server does: filesystems with every fourth reading.
        line.send(f"r {number} -{'d' if number % 4 == 1 else ''}{letters}\n")
        return line.until(f"\n@{NONCE} end {number}\n".encode())

    result = measure(line.pid, samples, ask)
    line.stop()
    return result


def node_exporter(path, samples):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # More than its defaults: processes by state, which is the nearest that it has to a list of them.
    command = [path, f"--web.listen-address=127.0.0.1:{port}", "--collector.processes"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.request("GET", "/metrics")
        body = connection.getresponse().read()
        connection.close()
        return body

    began = time.monotonic()
    while True:
        try:
            ask()
            break
        except OSError:
            if time.monotonic() - began > PATIENCE_S:
                raise SystemExit("bench: node_exporter does not answer")
            time.sleep(0.05)
    result = measure(child.pid, samples, ask)
    child.kill()
    child.wait()
    return result


def glances(path, samples):
    """Its own loop, a refresh a second: it knows no requests without a web server."""
    what = "cpu,load,mem,memswap,network,diskio,fs,processcount,processlist"
    line = Line([path, "--stdout-json", what, "--time", "1", "--disable-check-update"])

    def refresh():
        return line.until(b"\n")

    refresh()
    before = cpu_us(line.pid)
    for _ in range(samples):
        size = len(refresh())
    result = {
        "us_per_sample": (cpu_us(line.pid) - before) / samples,
        "rss_kib": rss_kib(line.pid),
        "bytes_per_sample": size,
    }
    line.stop()
    return result


def inside(options):
    """Runs in a PID namespace of its own, as its first process."""
    sleepers = []
    # Of the count, this and the measured program are two.
    for _ in range(options.processes - 2):
        sleepers.append(os.posix_spawn("/bin/sleep", ["sleep", "100000"], os.environ))
    text = open(options.readings).read()
    # What stands below the part that recognises a forced command is the probe itself.
    script = text[text.index("# The loop of the shell probe") :].replace("n=$NONCE", f"n={NONCE}")
    runs = max(60, 60_000 // options.processes)
    results = {}
    for name, run in [
        ("agent", lambda: agent(options.agent, "p", runs)),
        ("agent_base", lambda: agent(options.agent, "", runs)),
        ("shell", lambda: shell(script, "p", max(20, 6_000 // options.processes))),
        ("shell_base", lambda: shell(script, "", 300)),
        ("node_exporter", lambda: node_exporter(options.node_exporter, 100)),
        ("glances", lambda: glances(options.glances, 5)),
    ]:
        say(f"{options.processes} processes: {name}")
        results[name] = run()
    for pid in sleepers:
        os.kill(pid, signal.SIGKILL)
    print(json.dumps(results))


def outside(options):
    found = {"agent_bytes": os.path.getsize(options.agent)}
    rows = []
    for processes in options.counts:
        command = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", sys.executable, __file__]
        command += ["--processes", str(processes), "--agent", options.agent, "--readings", options.readings]
        command += ["--node-exporter", options.node_exporter, "--glances", options.glances]
        results = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        for name, result in results.items():
            base = name.endswith("_base")
            program = name.removesuffix("_base")
            kind = "base_sample" if base else "sample"
            found[f"{program}_us_per_{kind}_{processes}"] = round(result["us_per_sample"], 1)
            found[f"{program}_bytes_per_{kind}_{processes}"] = result["bytes_per_sample"]
            if not base:
                found[f"{program}_rss_kib_{processes}"] = result["rss_kib"]
            rows.append((processes, name, result))
    # The memory that is meant where no count is named: on a small server.
    for program in ["agent", "node_exporter", "glances"]:
        found[f"{program}_rss_kib"] = found[f"{program}_rss_kib_{options.counts[0]}"]
    print(f"{'processes':>9}  {'program':<14} {'CPU µs/sample':>14} {'RSS KiB':>9} {'bytes/sample':>13}")
    for processes, name, result in rows:
        print(
            f"{processes:>9}  {name:<14} {result['us_per_sample']:>14.0f}"
            f" {result['rss_kib']:>9} {result['bytes_per_sample']:>13}"
        )
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--readings", required=True)
    parser.add_argument("--node-exporter", required=True)
    parser.add_argument("--glances", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[60, 500, 2000])
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.processes:
        inside(options)
    else:
        outside(options)


main()
