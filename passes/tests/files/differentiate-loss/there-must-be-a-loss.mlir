// RUN: differentiate-loss
// FAILS: requires that there is a function @loss: there is no @loss
module {
}
