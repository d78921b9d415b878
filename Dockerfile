# The environment of requirements.lock with the `vitrine` command. Mount a project at /project.
FROM python:3.11-slim
COPY requirements.lock /vitrine/
RUN pip install --no-cache-dir --require-hashes --requirement /vitrine/requirements.lock
COPY pyproject.toml README.md LICENSE NOTICE /vitrine/
COPY src /vitrine/src
RUN pip install --no-cache-dir --no-deps --no-build-isolation /vitrine
ENV HOME=/tmp
USER 1000
WORKDIR /project
EXPOSE 7860
CMD ["vitrine", "--help"]
