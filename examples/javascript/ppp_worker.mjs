// Serves a Paranoid Pirate queue until Ctrl-C: node ppp_worker.mjs [BACKEND]
import * as zmq from "zeromq"

const backend = process.argv[2] ?? "tcp://127.0.0.1:5571"
const [READY, HEARTBEAT] = [Buffer.from([1]), Buffer.from([2])]
const worker = new zmq.Dealer({ linger: 1000, heartbeatInterval: 1000, heartbeatTimeout: 3000 })
let last = Promise.resolve() // a socket sends one message at a time
const say = (frames) => (last = last.then(() => worker.send(frames)))

// libzmq connects again by itself; the queue must hear READY on every connection.
worker.events.on("handshake", () => say(READY))
worker.connect(backend)
const beat = setInterval(() => say(HEARTBEAT), 1000)
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    clearInterval(beat)
    worker.close()
  })
}

for await (const [address, ...rest] of worker) {
  if (rest.length === 0) continue // a heartbeat of the queue's
  const [, ...body] = rest
  await say([address, "", ...body.map((frame) => String(frame).toUpperCase())])
}
