// RUN: divide-state data=2 zero_stage=2
// FAILS: requires that every entry is one rank's program
module {
}
