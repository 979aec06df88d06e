// RUN: specialise-calls
// FAILS: requires that there is a function @train_step or @train_finish
module {
}
