"""The server on Redis behind Sentinel, and on a Cluster, whose primaries die under load: requests are answered all the time, what a failover lost is
brought back, nothing counts twice."""
import pathlib
import random
import subprocess
import tempfile
import threading

from kill import test_kill
from redis.test_redis import DEFINITIONS, LAYOUTS, SETTINGS, Redis, RedisTest
from springhouse_testing import LONG, SEED, Project, eventually, free_port

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
    return eventually(what, holds, FAILOVER_SECONDS_MAX)


class FailoverTest(RedisTest):
    """Inherits the ledger's checks; its own test is not run again here."""

    test_accidents_of_the_store_and_the_server = None

    def test_primaries_behind_sentinel_die_under_load(self):
        print(f"seed {SEED}, {FAILOVERS} failovers ...", flush=True)
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
        settings = SETTINGS.replace('"redis://127.0.0.1:PORT"', urls) + LAYOUTS[1] + "  mode: sentinel\n  sentinel_primary: main\n"

        def die():
            old = wait("a primary", primary)
            old.kill()
            new = wait("another primary", lambda: (found := primary()) is not old and found)
            return old, ("--replicaof", "127.0.0.1", str(new.port))

        def back(old):
            wait("the replica follows", lambda: "master_link_status:up" in ask(old.port, "info", "replication"))
            wait("it is known", settled)

        self.run_through(settings, die, back)

    def cluster(self):
        """Six nodes: the servers, whether they agree and follow (and then who is what), the server's settings."""
        arguments = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no",
                     "--repl-diskless-sync-delay", "0")
        servers = [Redis(*arguments, "--cluster-port", str(free_port())) for _ in range(6)]
        for server in servers:
            self.addCleanup(server.close)
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        subprocess.run(["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"],
                       check=True, stdout=subprocess.DEVNULL, timeout=60)

        def roles():
            """By port, as the living nodes say; none while they disagree or somebody is not there."""
            views = []
            for server in servers:
                if server.process.poll() is None:
                    nodes = subprocess.run(["redis-cli", "-p", str(server.port), "cluster", "nodes"], capture_output=True,
                                           text=True, timeout=10).stdout.splitlines()
                    flags = {int(line.split()[1].split("@")[0].rsplit(":")[-1]): line.split()[2].split(",") for line in nodes}
                    views.append({port: "master" if "master" in f else "slave" for port, f in flags.items()
                                  if not {"fail", "fail?"} & set(f)})
            return views[0] if all(view == views[0] for view in views) else None

        def settled():
            found = roles()
            if not found or len(found) != 6 or list(found.values()).count("master") != 3:
                return None
            # A replica that has not got everything yet is not elected.
            whole = all("cluster_state:ok" in ask(server.port, "cluster", "info")
                        and "master_link_status:down" not in ask(server.port, "info", "replication") for server in servers)
            return found if whole else None

        wait("six nodes that agree", settled)
        urls = ", ".join(f'"redis://{address}"' for address in addresses[:3])
        settings = SETTINGS.replace('"redis://127.0.0.1:PORT"', urls) + LAYOUTS[0] + "  mode: cluster\n  shards: 8\n"
        return servers, roles, settled, settings

    def test_nodes_of_a_cluster_die_under_load(self):
        print(f"seed {SEED}, {FAILOVERS} failovers ...", flush=True)
        servers, roles, settled, settings = self.cluster()

        def die():
            found = wait("six nodes that agree", settled)
            old = self.rng.choice([server for server in servers if found[server.port] == "master"])
            old.kill()
            wait("another primary", lambda: (now := roles()) and list(now.values()).count("master") == 3)
            return old, old.arguments

        self.run_through(settings, die, lambda old: wait("six nodes that agree", settled))

    def test_slots_of_a_cluster_move_under_load(self):
        print(f"seed {SEED}, {FAILOVERS} moves ...", flush=True)
        servers, _, settled, settings = self.cluster()

        def move():
            found = wait("six nodes that agree", settled)
            primaries = [server for server in servers if found[server.port] == "master"]
            of, to = self.rng.sample([ask(server.port, "cluster", "myid")[0] for server in primaries], 2)
            done = subprocess.run(["redis-cli", "--cluster", "reshard", f"127.0.0.1:{primaries[0].port}", "--cluster-from", of,
                                   "--cluster-to", to, "--cluster-slots", "4000", "--cluster-pipeline", "50", "--cluster-yes"],
                                  capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout[-1000:] + done.stderr)
            return None, None

        self.run_through(settings, move, None)

    def run_through(self, settings, die, back):
        """Requests and pushes while one after the other dies."""
        rng = random.Random(SEED)
        with Project(DEFINITIONS, settings) as project:
            self.begin(project, rng)
            for _ in range(FAILOVERS):
                stop = threading.Event()
                threads = [threading.Thread(target=self.push, args=(self.server, stop, rng.randrange(1 << 30)))
                           for _ in range(test_kill.PUSHERS)]
                threads.append(threading.Thread(target=self.ask, args=(self.server, stop)))
                for thread in threads:
                    thread.start()
                self.pause()
                old, arguments = die()
                self.pause()
                self.wait_whole("failover")
                stop.set()
                for thread in threads:
                    thread.join()
                self.assertEqual(self.ledger.failures, [], self.server.tail())
                self.check_bounds_after("failover")
                if old:
                    # The one that died comes back as a replica.
                    old.arguments = arguments
                    old.start()
                    back(old)
            self.assertEqual(self.server.stop(), 0, self.server.tail())
            self.finish()
            print(f"{len(self.ledger.acknowledged):,} events, {self.fresh_answers:,} answers fresh, "
                  f"{self.other_answers:,} not", flush=True)
            self.assertGreater(self.fresh_answers, 0)


del RedisTest  # or its own test would be found here too
