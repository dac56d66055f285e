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
      Nor does ASP help as long as each worker has a fixed number of steps to do: the others just
      finish early. With --chunks they share the work by client.chunks(): whoever is free takes
      the next piece, so the slow worker does fewer steps. That needs ASP as well: under BSP and
      SSP the clocks of all workers have to move on together, however the work is shared.
"""
EPILOG = """\
The target: unless --target gives one, the loss that is 90 % of the way from knowing nothing (ln 2)
to the best possible model (generated data) or to the best run (--data). It counts as reached the
first time it is. A worker of the group "eval" copies the model every few milliseconds without
waiting; losses are computed when the run is over. Minibatches and stalls are the same for every
policy. With generated data the held-out loss is exact: the true probabilities are known.

SGD is the default because it treats the sum of four gradients, as BSP applies it, like the four
after each other. AdaGrad does not. A larger --lr makes learning faster, and stale gradients dearer.

examples:
  fastps-bench staleness --plot staleness.png            both kinds of delay, some two minutes
  fastps-bench staleness --stall p=0.1,factor=10         rare, long stalls
  fastps-bench staleness --slow rank=0,factor=4          a slow worker and fixed work: see why
  fastps-bench staleness --slow rank=0,factor=4 --chunks ... and shared work
  fastps-bench staleness --policies bsp,bsp:1,ssp:3,asp --slow rank=0,factor=4   a backup worker
  fastps-bench staleness --slow rank=0,factor=1          nobody is slow
  fastps-bench staleness --data train.libsvm --lr 0.5    your own data
"""
