"""What Python programs do with memory: objects of all sizes, threads, processes, forks."""
import hashlib
import json
import multiprocessing
import random
import re
import subprocess
import sys
import threading
import zlib

SCALE = int(sys.argv[1])


def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def records(seed, count):
    source = random.Random(seed)
    return [{"id": number, "name": "x" * source.randrange(200),
             "tags": [source.random() for _ in range(source.randrange(8))]}
            for number in range(count)]


def json_work(seed):
    text = json.dumps(records(seed, 200 * SCALE), indent=1)
    return digest(json.loads(text))


def regular_expressions(seed):
    text = json.dumps(records(seed, 100 * SCALE))
    found = re.findall(r'"name": "(x*)".*?"tags": \[([^]]*)\]', text)
    return digest(re.sub(r"\d+", lambda match: match[0][::-1], str(found)))


def large_blocks(seed):
    source = random.Random(seed)
    held = [b""] * 64
    for step in range(100 * SCALE):
        held[step % 64] = zlib.compress(bytes(source.randrange(1 << 20)))
        held[step * 7 % 64] += bytes(source.randrange(1 << 14))
    return digest(b"".join(held))


def in_threads(work):
    results = [None] * 6

    def run(seed):
        results[seed] = work(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    children = [subprocess.run([sys.executable, "-c", "print(sum(range(1000)))"],
                               capture_output=True, check=True).stdout for _ in range(3)]
    for thread in threads:
        thread.join()
    return digest((results, children))


def in_forks(work):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        return digest(pool.map(work, range(16)))


for job in json_work, regular_expressions, large_blocks:
    print(job.__name__, job(0), in_threads(job), in_forks(job), flush=True)
