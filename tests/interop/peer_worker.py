"""A worker in a process of its own, for tests that kill it, freeze it or let it work for long.

Prints `request BODY` for each request before it works on it.
"""

import argparse
import os
import time

import zmq

import mdp


def main():
    arguments = parse()

    def handle(body):
        print("request", b" ".join(body)[:200].decode(errors="replace"), flush=True)
        time.sleep(arguments.busy)
        if arguments.die:
            os._exit(9)
        return body if arguments.reply is None else [arguments.reply.encode()]

    mdp.Service(
        zmq.Context(),
        arguments.endpoint,
        arguments.service,
        handle,
        dialect=mdp.V02 if arguments.v2 else mdp.V01,
        interval=arguments.interval,
        liveness=arguments.liveness,
        options=[option.encode() for option in arguments.option],
    ).run()


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("service")
    parser.add_argument("--interval", type=float, default=3.0, help="seconds between heartbeats")
    parser.add_argument("--liveness", type=int, default=3)
    parser.add_argument("--busy", type=float, default=0.0, help="seconds of work per request")
    parser.add_argument("--die", action="store_true", help="exit instead of answering")
    parser.add_argument("--reply", help="answer this instead of the request's own body")
    parser.add_argument("--option", action="append", default=[], help="an option frame of READY")
    parser.add_argument("--v2", action="store_true", help="speak MDP/0.2")
    return parser.parse_args()


if __name__ == "__main__":
    main()
