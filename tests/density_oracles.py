"""Log densities in 120 digits: of single values, by formulas that share no code with the package."""

import mpmath as mp

mp.mp.dps = 120
LEVELS = 255


def softplus(raw):
    return mp.log1p(mp.exp(raw)) if raw < 200 else raw + mp.exp(-raw)


def log_sigmoid(a):
    return -softplus(-a)


def bernoulli(x, logit):
    return x * logit - softplus(logit)


def continuous_bernoulli(x, logit):
    return x * logit - (mp.log(mp.expm1(logit) / logit) if logit else mp.mpf(0))


def normal(x, loc, scale):
    return -(((x - loc) / scale) ** 2) / 2 - mp.log(scale) - mp.log(2 * mp.pi) / 2


def laplace(x, loc, scale):
    return -abs(x - loc) / scale - mp.log(2 * scale)


def student_t(x, loc, scale, df):
    constant = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(df * mp.pi) / 2 - mp.log(scale)
    return constant - (df + 1) / 2 * mp.log1p(((x - loc) / scale) ** 2 / df)


def logistic_bin(x, loc, scale):
    half = mp.mpf(1) / (2 * LEVELS)
    above, below = (x - loc + half) / scale, (x - loc - half) / scale
    if x < half:
        return log_sigmoid(above)
    if x > 1 - half:
        return log_sigmoid(-below)
    return log_sigmoid(above) + log_sigmoid(-below) + mp.log(-mp.expm1(below - above))


def poisson(x, log_rate):
    return x * log_rate - mp.exp(log_rate) - mp.loggamma(x + 1)


def negative_binomial(x, log_mean, log_count):
    count = mp.exp(log_count)
    logit = log_mean - log_count
    choices = mp.loggamma(count + x) - mp.loggamma(x + 1) - mp.loggamma(count)
    return count * log_sigmoid(-logit) + x * log_sigmoid(logit) + choices


def gamma(x, log_mean, shape):
    rate = shape * mp.exp(-log_mean)
    return shape * mp.log(rate) + (shape - 1) * mp.log(x) - rate * x - mp.loggamma(shape)


def beta(x, logit, concentration):
    a, b = concentration * mp.exp(log_sigmoid(logit)), concentration * mp.exp(log_sigmoid(-logit))
    constant = mp.loggamma(concentration) - mp.loggamma(a) - mp.loggamma(b)
    return (a - 1) * mp.log(x) + (b - 1) * mp.log1p(-x) + constant


def log_sum_exp(terms):
    top = max(terms)
    return top + mp.log(sum(mp.exp(term - top) for term in terms))


def log_softmax(logits):
    total = log_sum_exp(logits)
    return [logit - total for logit in logits]


def mixture_of_normals(x, logits, locs, scales):
    """Of x (K,) under C components, each with locations and scales (K,)."""
    terms = [
        weight + mp.fsum(map(normal, x, loc, scale))
        for weight, loc, scale in zip(log_softmax(logits), locs, scales, strict=True)
    ]
    return log_sum_exp(terms)


def multivariate_normal(x, loc, covariance):
    difference = mp.matrix([a - b for a, b in zip(x, loc, strict=True)])
    distance = (difference.T * mp.lu_solve(covariance, difference))[0]
    return -(distance + mp.log(mp.det(covariance)) + len(x) * mp.log(2 * mp.pi)) / 2
