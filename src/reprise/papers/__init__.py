"""One folder a paper: data, model, train, evaluate, report; a paper never imports another."""
