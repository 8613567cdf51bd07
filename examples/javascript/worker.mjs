// Serves `upper` and `count` over MDP/0.2 until Ctrl-C: node worker.mjs [ENDPOINT]
import * as zmq from "zeromq"

const endpoint = process.argv[2] ?? "tcp://127.0.0.1:5555"
const [READY, REQUEST, PARTIAL, FINAL, HEARTBEAT, DISCONNECT] = [1, 2, 3, 4, 5, 6]
const BEAT = 2500 // ms; maitred expects a sign of life every 3 s

const services = {
  async *upper(text) {
    yield text.toUpperCase()
  },
  async *count(text) {
    for (let number = 1; number <= Number(text); number++) yield `${number}`
  },
}

// One connection per service, as Majordomo wants it.
async function serve(service, handler) {
  const socket = new zmq.Dealer({ linger: 1000, heartbeatInterval: 3000, heartbeatTimeout: 9000 })
  let last = Promise.resolve() // a socket sends one message at a time
  const say = (command, ...frames) =>
    (last = last.then(() => socket.send(["MDPW02", Buffer.from([command]), ...frames])))

  // libzmq connects again by itself; the broker must hear READY on every connection.
  socket.events.on("handshake", () => say(READY, service))
  socket.connect(endpoint)
  const beat = setInterval(() => say(HEARTBEAT), BEAT)
  const stop = async () => {
    clearInterval(beat)
    await say(DISCONNECT) // what we hold goes to another worker
    socket.close()
  }
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, stop)

  for await (const [, [command], token, , ...body] of socket) {
    if (command === DISCONNECT) {
      socket.disconnect(endpoint)
      socket.connect(endpoint)
    }
    if (command !== REQUEST) continue
    let previous = null // the last reply is the final one
    for await (const reply of handler(body.map(String).join(""))) {
      if (previous !== null) await say(PARTIAL, token, "", previous)
      previous = reply
    }
    await say(FINAL, token, "", previous ?? "")
  }
}

await Promise.all(Object.entries(services).map(([name, handler]) => serve(name, handler)))
