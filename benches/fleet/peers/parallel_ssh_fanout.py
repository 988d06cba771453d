"""One command on many servers with parallel-ssh (libssh2): cold, or warm with the client's own sessions kept."""

import json
import sys
import time

from pssh.clients import ParallelSSHClient
from pssh.config import HostConfig


def main(plan):
    hosts = plan["hosts"]
    client = ParallelSSHClient(
        [host["host"] for host in hosts],
        host_config=[HostConfig(port=host["port"]) for host in hosts],
        user=plan["user"],
        pkey=plan["key"],
        allow_agent=False,
        identity_auth=False,
        pool_size=len(hosts),
        num_retries=1,
    )

    def round_of_commands():
        output = client.run_command(plan["command"])
        client.join(output)
        for host in output:
            if host.exit_code != 0 or list(host.stdout) != [plan["answer"]]:
                raise SystemExit(f"wrong answer of {host.host}: {host.exit_code} {host.exception!r}")

    if plan["rounds"] == 0:
        round_of_commands()
        print(json.dumps({"commands": len(hosts)}))
        return
    round_of_commands()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(plan["rounds"]):
        round_of_commands()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"commands": len(hosts) * plan["rounds"], "wall_s": wall, "cpu_s": cpu}))


with open(sys.argv[1], encoding="utf-8") as file:
    main(json.load(file))
