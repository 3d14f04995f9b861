"""Sheets as HTTP responses, for the API and for the back office; files of them."""

from collections.abc import Iterator
from itertools import chain
from tempfile import TemporaryFile
from typing import IO

from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string

from payflow.sheets import Sheet, csv_chunks, page_context, write_workbook

#: The forms of a sheet.
FORMS = ("csv", "xlsx", "html", "pdf")
#: The forms that are made as a whole, and their content types.
BINARY_TYPES = {
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pdf": "application/pdf",
}


def write_binary(sheet: Sheet, *, form: str, file: IO[bytes]) -> None:
    """Writes the sheet in one of the forms of :data:`BINARY_TYPES`.

    Raises:
        ProblemError: ``report_too_long``.
    """
    if form == "xlsx":
        write_workbook(sheet, file)
        return
    # What draws takes 14 MB: only a process that makes a PDF loads it.
    from payflow.pdf import write_pdf

    write_pdf(sheet, file)


def sheet_response(
    sheet: Sheet, *, form: str, file_name: str, template: str
) -> HttpResponseBase:
    """A sheet in one of its forms.

    Args:
        sheet: what is shown.
        form: one of :data:`FORMS`; CSV is streamed.
        file_name: how the download is called, without its ending; ASCII.
        template: the page around the table, for ``html``.

    Raises:
        ProblemError: ``report_too_long``.
    """
    attachment = f'attachment; filename="{file_name}.{form}"'
    if form == "csv":
        return StreamingHttpResponse(
            _started(csv_chunks(sheet)),
            content_type="text/csv; charset=utf-8; header=present",
            headers={"Content-Disposition": attachment},
        )
    if form in BINARY_TYPES:
        file = TemporaryFile()  # noqa: SIM115 - the response closes it
        try:
            write_binary(sheet, form=form, file=file)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return FileResponse(
            file,
            content_type=BINARY_TYPES[form],
            headers={"Content-Disposition": attachment},
        )
    return HttpResponse(render_to_string(template, page_context(sheet)))


def _started(chunks: Iterator[str]) -> Iterator[str]:
    """The chunks, the first of which is made now: what fails at once is no download."""
    return chain([next(chunks)], chunks)
