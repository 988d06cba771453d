"""One command on many servers with asyncssh: cold (connect, run, leave) or warm (connections kept, rounds timed)."""

import asyncio
import json
import sys
import time

import asyncssh


async def main(plan):
    hosts = plan["hosts"]

    async def connect(host):
        return await asyncssh.connect(
            host["host"],
            port=host["port"],
            username=plan["user"],
            client_keys=[plan["key"]],
            known_hosts=plan["known_hosts"],
            config=None,
            agent_path=None,
        )

    connections = await asyncio.gather(*(connect(host) for host in hosts))

    async def round_of_commands():
        results = await asyncio.gather(*(connection.run(plan["command"]) for connection in connections))
        for result in results:
            if result.exit_status != 0 or result.stdout.strip() != plan["answer"]:
                raise SystemExit(f"wrong answer: {result!r}")

    if plan["rounds"] == 0:
        await round_of_commands()
        print(json.dumps({"commands": len(hosts)}))
        return
    await round_of_commands()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(plan["rounds"]):
        await round_of_commands()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"commands": len(hosts) * plan["rounds"], "wall_s": wall, "cpu_s": cpu}))


with open(sys.argv[1], encoding="utf-8") as file:
    asyncio.run(main(json.load(file)))
