// Calls the service of a Paranoid Pirate queue: node ppp_client.mjs [FRONTEND]
import * as zmq from "zeromq"

const frontend = process.argv[2] ?? "tcp://127.0.0.1:5570"
const client = new zmq.Request({ linger: 0, receiveTimeout: 5000 })
client.connect(frontend)
await client.send("hello")
console.log((await client.receive()).map(String).join(""))
client.close()
