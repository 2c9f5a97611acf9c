"""Expectation–maximization and its relatives: EM, closed forms, coordinate ascent, Monte-Carlo EM."""
