%% Matches per second of Erlang's sbroker: so many processes ask and so many ask back, in loops. The
%% peer of `facade` in crates/matching/benches/matching.rs, with the same lines, pairs and time.
%%
%%   erl -noshell -pa EBIN_OF_SBROKER -pa WHERE_THIS_IS_COMPILED -run sbroker_pairs main 64 1000
%%
%% prints a line for each number of pairs: `sbroker_64 FIGURE`, the median of five runs.
-module(sbroker_pairs).

-behaviour(sbroker).

-export([main/1, init/1]).

-define(RUNS, 5).
-define(MEET_MS, 1200).

main(Pairs) ->
    [say(list_to_integer(N)) || N <- Pairs],
    halt(0).

say(N) ->
    Figures = lists:sort([run(N) || _ <- lists:seq(1, ?RUNS)]),
    io:format("sbroker_~b ~.3f~n", [N, lists:nth((?RUNS + 1) div 2, Figures)]).

init([]) ->
    Asks = {sbroker_codel_queue, #{target => 100, interval => 1000}},
    AskRs = {sbroker_timeout_queue, #{timeout => 5000}},
    {ok, {Asks, AskRs, []}}.

run(N) ->
    {ok, Broker} = sbroker:start_link(?MODULE, [], []),
    Met = counters:new(N, [write_concurrency]),
    AskRs = [spawn_link(fun() -> ask_r(Broker, I) end) || I <- lists:seq(1, N)],
    Asks = [spawn_link(fun() -> ask(Broker, I, Met) end) || I <- lists:seq(1, N)],
    {Start, Before} = {erlang:monotonic_time(microsecond), sum(Met, N)},
    timer:sleep(?MEET_MS),
    {End, After} = {erlang:monotonic_time(microsecond), sum(Met, N)},
    [finish(Pid) || Pid <- [Broker | Asks ++ AskRs]],
    (After - Before) * 1.0e6 / (End - Start).

ask(Broker, I, Met) ->
    {go, _, _, _, _} = sbroker:ask(Broker, I),
    counters:add(Met, I, 1),
    ask(Broker, I, Met).

ask_r(Broker, I) ->
    {go, _, _, _, _} = sbroker:ask_r(Broker, I),
    ask_r(Broker, I).

sum(Met, N) ->
    lists:sum([counters:get(Met, I) || I <- lists:seq(1, N)]).

finish(Pid) ->
    Monitor = monitor(process, Pid),
    unlink(Pid),
    exit(Pid, kill),
    receive {'DOWN', Monitor, process, Pid, _} -> ok end.
