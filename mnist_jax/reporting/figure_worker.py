class FigureWorker:
    def __init__(self, workdir):
        pass

    def draw(self, **k):
        pass

    def close(self, wait=True):
        return None
