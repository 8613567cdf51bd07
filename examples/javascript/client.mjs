// Calls `upper` over MDP/0.1: node client.mjs [ENDPOINT]
import * as zmq from "zeromq"

const endpoint = process.argv[2] ?? "tcp://127.0.0.1:5555"
const client = new zmq.Request({ linger: 0, receiveTimeout: 5000 })
client.connect(endpoint)
await client.send(["MDPC01", "upper", "hello"])
const [, , ...reply] = await client.receive() // throws after 5 s without an answer
console.log(reply.map(String).join(""))
client.close()
