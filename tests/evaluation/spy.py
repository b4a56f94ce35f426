"""A classifier that writes down which rows it was fitted on; row numbers stand in column 0."""

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.utils.validation import check_is_fitted

FITS = []


class Spy(ClassifierMixin, BaseEstimator):
    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y):
        FITS.append((self.C, frozenset(X[:, 0].astype(int))))
        self.dummy_ = DummyClassifier().fit(X, y)
        self.classes_ = self.dummy_.classes_
        return self

    def predict(self, X):
        check_is_fitted(self)
        return self.dummy_.predict(X)
