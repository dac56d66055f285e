"""What ``fastps-bench staleness --help`` teaches."""

from __future__ import annotations

__all__ = ["DESCRIPTION", "EPILOG"]

DESCRIPTION = """\
Train logistic regression on a real cluster in which some workers are slow, under one consistency
policy after another, and see what each makes of it.

A step is: pull the weights of a minibatch, compute, push the gradient, client.clock(). Computing
is a sleep, so that a small machine can play a cluster. The policies:

  BSP     bulk synchronous: nobody begins step c + 1 before everybody has ended step c.
  SSP(s)  stale synchronous: nobody is more than s steps ahead of the slowest worker.
  ASP     asynchronous: nobody waits for anybody.

Three figures for each, and a picture of them with --plot:

  hardware performance     steps a second of all workers: how much the policy makes workers wait.
  statistical performance  steps until the held-out loss reaches a target: how much it costs to
                           learn from weights that others have changed in the meantime.
  seconds to the target    their product, and what you wait for.

Two kinds of delay (without --slow and --stall both are measured, one after the other):

  --stall p=0.25,factor=4   Each step of each worker is slow by chance. Under BSP every step lasts
      as long as the unluckiest worker's: with 4 workers 68 % of all steps. Under SSP(3) a worker
      that was unlucky once catches up while the others use up their 3 steps: luck averages out.
  --slow rank=0,factor=4    One worker is always slow. SSP(s) does not help against that: the
      others run s steps ahead, once, and from then on wait at every step, at the pace of the
      slow worker. A bound on staleness is a bound on how far a worker may be behind, and this one
      falls behind for ever. SSP is for delays that pass.
      With a fixed number of steps for each worker the job lasts as long under ASP, too: the others
      just finish early. With --chunks they share the work by client.chunks(): whoever is free
      takes the next piece, so the slow worker does fewer steps. Only that and ASP together make
      the job shorter: under BSP and SSP all clocks have to move on together, however the work is
      shared. (bsp:1, a backup worker, is the other way: rounds are closed without the slowest
      worker, whose gradients are then lost. That costs steps.)
"""
EPILOG = """\
The target: unless --target gives one, the loss that is 90 % of the way from knowing nothing (ln 2)
to the best possible model (generated data) or to the best run (--data). It counts as reached the
first time it is. A worker of the group "eval" copies the model every few milliseconds without
waiting; losses are computed when the run is over. Minibatches and stalls are the same for every
policy. With generated data the held-out loss is exact: the true probabilities are known.

Steps to the target differ little here, and that is no mistake: with N workers N gradients are under
way at a time under every policy, and a pull sees all that has arrived. SGD is the default because
the sum of N gradients, which is what BSP applies, moves weights as far as the N after each other;
with AdaGrad it does not. Where BSP alone learns badly, --lr is too large for that sum.

examples:
  fastps-bench staleness --plot staleness.png            both kinds of delay, some two minutes
  fastps-bench staleness --stall p=0.1,factor=10         rare, long stalls
  fastps-bench staleness --slow rank=0,factor=4          a slow worker and fixed work: see why
  fastps-bench staleness --slow rank=0,factor=4 --chunks ... and shared work
  fastps-bench staleness --slow rank=0,factor=4 --chunks --policies bsp,bsp:1,asp   backup worker
  fastps-bench staleness --slow rank=0,factor=1          nobody is slow
  fastps-bench staleness --data train.libsvm --lr 0.2    your own data
"""
