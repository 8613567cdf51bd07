// Shows the replies of `count` as they come, over MDP/0.2: node stream.mjs [ENDPOINT]
import * as zmq from "zeromq"

const endpoint = process.argv[2] ?? "tcp://127.0.0.1:5555"
const [REQUEST, FINAL] = [1, 3]
const client = new zmq.Dealer({ linger: 0, receiveTimeout: 5000 })
client.connect(endpoint)
await client.send(["MDPC02", Buffer.from([REQUEST]), "count", "3"])
for (;;) {
  const [, [kind], , ...body] = await client.receive()
  console.log(body.map(String).join(""))
  if (kind === FINAL) break
}
client.close()
