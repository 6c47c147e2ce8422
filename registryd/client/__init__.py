"""The messenger's side: what an integrator runs on his own machine, with no database and no secret of the operator's."""
