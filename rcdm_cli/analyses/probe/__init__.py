"""Analysis `probe`: accuracy of linear and k-NN classifiers on representations."""
