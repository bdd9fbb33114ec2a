"""The server on Redis behind Sentinel whose primaries die under load: requests are answered all the time, what a failover lost is
brought back, nothing counts twice."""
import pathlib
import random
import subprocess
import tempfile
import threading
import time
import unittest

from kill import test_kill
from redis.test_redis import DEFINITIONS, SETTINGS, Redis, RedisTest
from springhouse_testing import LONG, SEED, Project, free_port

FAILOVERS = 8 if LONG else 2
FAILOVER_SECONDS_MAX = 60


class Sentinel:
    """One of the watchers."""

    def __init__(self, primary):
        self.folder = tempfile.TemporaryDirectory(prefix="springhouse-sentinel-")
        self.port = free_port()
        file = pathlib.Path(self.folder.name) / "sentinel.conf"
        file.write_text(f"""port {self.port}
bind 127.0.0.1
dir {self.folder.name}
sentinel monitor main 127.0.0.1 {primary} 2
sentinel down-after-milliseconds main 500
sentinel failover-timeout main 3000
""")
        self.process = subprocess.Popen(["redis-server", file, "--sentinel"], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def ask(port, *words):
    done = subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True, timeout=10)
    return done.stdout.split()


def wait(what, holds):
    end = time.monotonic() + FAILOVER_SECONDS_MAX
    while time.monotonic() < end:
        if result := holds():
            return result
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


class FailoverTest(RedisTest):
    """Inherits the ledger's checks; its own test is not run again here."""

    test_accidents_of_the_store_and_the_server = None

    def test_primaries_die_under_load(self):
        print(f"seed {SEED}, {FAILOVERS} failovers ...", flush=True)
        rng = random.Random(SEED)
        servers = [Redis()]
        servers.append(Redis("--replicaof", "127.0.0.1", str(servers[0].port)))
        for server in servers:
            self.addCleanup(server.close)
        wait("the replica follows", lambda: "master_link_status:up" in ask(servers[1].port, "info", "replication"))
        sentinels = [Sentinel(servers[0].port) for _ in range(3)]
        for sentinel in sentinels:
            self.addCleanup(sentinel.close)

        def primary():
            found = ask(sentinels[0].port, "sentinel", "get-master-addr-by-name", "main")
            return next((server for server in servers if found and str(server.port) == found[1]), None)

        def settled():
            told = [ask(sentinel.port, "sentinel", "master", "main") for sentinel in sentinels]
            counts = [dict(zip(one[::2], one[1::2])) for one in told]
            return all(one.get("num-other-sentinels") == "2" and int(one.get("num-slaves", 0)) >= 1 for one in counts)

        wait("the sentinels know each other", settled)
        urls = ", ".join(f'"redis://127.0.0.1:{sentinel.port}"' for sentinel in sentinels)
        settings = SETTINGS.replace('"redis://127.0.0.1:PORT"', urls) + "  mode: sentinel\n  sentinel_primary: main\n"
        with Project(DEFINITIONS, settings) as project:
            self.project, self.rng, self.ledger = project, rng, test_kill.Ledger(rng)
            self.history, self.history_files, self.loaded = [], 0, False
            self.fresh_answers, self.other_answers = 0, 0
            (project.folder / "history").mkdir()
            self.add_history()
            project.run("apply")
            project.run("materialize")
            self.server = project.serve()
            self.assertTrue(self.server.wait_ready(), self.server.tail())
            for _ in range(FAILOVERS):
                old = wait("a primary", primary)
                stop = threading.Event()
                threads = [threading.Thread(target=self.push, args=(self.server, stop, rng.randrange(1 << 30)))
                           for _ in range(test_kill.PUSHERS)]
                threads.append(threading.Thread(target=self.ask, args=(self.server, stop)))
                for thread in threads:
                    thread.start()
                self.pause()
                old.kill()
                new = wait("another primary", lambda old=old: (found := primary()) is not old and found)
                self.pause()
                self.wait_whole("failover")
                stop.set()
                for thread in threads:
                    thread.join()
                self.assertEqual(self.ledger.failures, [], self.server.tail())
                self.check_bounds(self.server)
                # The one that died comes back empty, as a replica.
                old.arguments = ("--replicaof", "127.0.0.1", str(new.port))
                old.start()
                wait("the replica follows", lambda old=old: "master_link_status:up" in ask(old.port, "info", "replication"))
                wait("it is known", settled)
            self.assertEqual(self.server.stop(), 0, self.server.tail())
            self.finish()
            print(f"{len(self.ledger.acknowledged):,} events, {self.fresh_answers:,} answers fresh, "
                  f"{self.other_answers:,} not", flush=True)
            self.assertGreater(self.fresh_answers, 0)


del RedisTest  # or its own test would be found here too

if __name__ == "__main__":
    unittest.main()
