//! Replays one seed.
use maitred_sim::*;
fn main() {
    for seed in 0..2000 {
        let s = Scenario { seed, stage: Stage::Rules, bug: None, keep: Keep::Last };
        let (log, r) = run(&s);
        if let Err(v) = r {
            for l in log.last_lines() {
                println!("{l}");
            }
            println!("seed {seed} {} at {:?}\n{}", v.rule, v.at, v.text);
            return;
        }
    }
}
